"""Models that transformers has no classes for: classes of ours, and what makes their checkpoints."""
