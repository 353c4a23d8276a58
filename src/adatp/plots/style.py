"""What all figures share: colours and markers, and which of many to draw."""

import numpy as np

INK, MUTED = "#222222", "#777777"
# Okabe and Ito's colours, which colour-blind readers can distinguish. Vermilion is for ours, yellow too pale.
OURS = "#D55E00"
COLOURS = ("#0072B2", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#000000")
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "<", ">", "*", "h")


def evenly_spaced(count: int, most: int) -> np.ndarray:
    """Pick places that are evenly spaced.

    Args:
        count: how many places there are.
        most: how many to pick at most.

    Returns:
        int64, ascending, from 0 to ``count - 1``; both of these are among them.
    """
    return np.linspace(0, count - 1, min(count, most)).round().astype(int)
