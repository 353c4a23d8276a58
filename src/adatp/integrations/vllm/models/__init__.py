"""Models of vLLM whose videos are pruned; each takes the place of the class of the same name."""
