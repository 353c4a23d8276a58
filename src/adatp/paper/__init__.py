"""The field's benchmarks in one command: many runs of lmms-eval, gathered into one table."""
