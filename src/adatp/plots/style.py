"""What all figures share: colours and markers, and which of many to draw."""

import numpy as np

INK, MUTED = "#222222", "#777777"
# Okabe and Ito's colours, told apart by colour-blind readers; vermilion is for ours, yellow is too pale.
OURS = "#D55E00"
COLOURS = ("#0072B2", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#000000")
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "<", ">", "*", "h")


def evenly(count: int, most: int) -> np.ndarray:
    """At most so many of ``count`` places, ascending int64, first and last among them."""
    return np.linspace(0, count - 1, min(count, most)).round().astype(int)
