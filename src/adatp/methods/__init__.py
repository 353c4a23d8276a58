"""Pruning methods: one file a method, one frozen dataclass each."""
