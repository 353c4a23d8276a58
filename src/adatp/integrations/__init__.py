"""Integrations into other tools, one module per tool. Each needs its own extra."""
