"""What a call of the command line gives a test."""

from collections.abc import Callable

Run = Callable[..., tuple[int, str, str]]
"""Runs the command; exit code, standard output, standard error."""
