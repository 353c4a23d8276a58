"""The steps of AdaTP as pure tensor functions: no model, no state."""
