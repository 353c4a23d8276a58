"""Handles clocks that jump, and missing time."""

from __future__ import annotations

import numpy as np

JUMP = 10.0  # seconds; a longer step of a broadcast clock is no pause (FFmpeg's own threshold)


def steady(times: np.ndarray, tick: float, rate: float) -> np.ndarray:
    """The times of frames in the order of presentation, as if the clock had never jumped.

    The clock has jumped if it runs back, stands still, or runs ahead by more than `JUMP` and far more than
    usual. What follows then begins one frame after what came before.

    Args:
        times: int64 ticks, shape (F,).
        tick: Seconds per tick.
        rate: Frames per second, for a clock that only jumps.
    """
    steps = np.diff(times)
    usual = float(np.median(steps[steps > 0])) if (steps > 0).any() else 0.0
    jumps = (steps <= 0) | (steps > max(JUMP / tick, 10 * usual))
    sound = steps[~jumps]
    frame = int(np.median(sound)) if len(sound) else round(1 / rate / tick)
    return np.concatenate([[0], np.cumsum(np.where(jumps, frame, steps))])


def is_loss(missing: float, total: float, pause: float = 0.0) -> bool:
    """Whether `missing` seconds of `total` exceed rounding and padding, and also a `pause`."""
    return missing > max(0.15, 0.02 * total, pause)


def shown_seconds(times: np.ndarray, last: float) -> float:
    """How long the frames at `times` (seconds, ascending) are shown, if the last ones may be missing.

    Frames are stored before those that are shown before them. So in a file that was cut, pauses among the
    last frames are holes. No codec reorders by more than 16 frames.
    """
    steps = np.diff(times)
    if not len(steps):
        return last
    steps[-16:] = np.minimum(steps[-16:], np.median(steps))
    return float(steps.sum()) + last


def longest_hole(expected: np.ndarray, came: np.ndarray, last: float) -> float:
    """The longest time, in seconds, for which two or more consecutive `expected` frames are missing.

    A single lost frame never counts, however long it is shown.

    Args:
        expected: Seconds of the frames that should be there, shape (N,), ascending.
        came: bool, shape (N,).
        last: Seconds for which the last frame is shown.
    """
    if not len(expected):
        return 0.0
    edges = np.flatnonzero(np.diff(np.concatenate([[0], ~came, [0]]).astype(np.int8)))
    starts, stops = edges[::2], edges[1::2]
    ends = np.append(expected, expected[-1] + last)
    holes = (ends[stops] - expected[starts])[stops - starts > 1]
    return float(holes.max(initial=0.0))
