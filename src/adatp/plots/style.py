"""Style that all figures share: colours and markers, and a choice among many items."""

import numpy as np

INK, MUTED = "#222222", "#777777"
# Okabe and Ito's colours, which colour-blind readers can distinguish. Vermilion is for ours, yellow too pale.
OURS = "#D55E00"
COLOURS = ("#0072B2", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#000000")
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "<", ">", "*", "h")


def evenly_spaced(count: int, most: int) -> np.ndarray:
    """Pick evenly spaced places.

    Args:
        count: number of places.
        most: how many to pick at most.

    Returns:
        int64, ascending, including the first (0) and the last (``count - 1``).
    """
    return np.linspace(0, count - 1, min(count, most)).round().astype(int)
