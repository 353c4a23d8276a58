"""Models without classes in transformers: our classes for them, and the converters of their checkpoints."""
