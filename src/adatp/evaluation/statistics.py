"""Confidence of an accuracy, and tests of differences: pure functions of per-question outcomes."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike

RESAMPLES = 10_000
LEVEL = 0.95


def bootstrap_interval(values: ArrayLike, seed: int = 0) -> tuple[float, float]:
    """95 % percentile bootstrap interval of a mean.

    Drawing n values with replacement is the same as drawing how often each distinct value occurs. That is one
    multinomial draw per resample, however many questions there are.

    Args:
        values: one number per question, (n,), n at least 1.
        seed: seed of the resampling.

    Returns:
        Lower and upper end. If all values are equal, both are that value.
    """
    levels, counts = np.unique(np.asarray(values, dtype=float), return_counts=True)
    n = int(counts.sum())
    draws = np.random.default_rng(seed).multinomial(n, counts / n, RESAMPLES)
    low, high = np.quantile(draws @ levels / n, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return float(low), float(high)


def mcnemar_p(only_first: int, only_second: int) -> float:
    """Exact two-sided McNemar test of two methods on the same questions.

    Args:
        only_first: questions that only the first answers right.
        only_second: questions that only the second answers right.

    Returns:
        Probability of a split at least as uneven if each such question were a fair coin's; 1 without any.
    """
    n = only_first + only_second
    tail: int = sum(math.comb(n, k) for k in range(min(only_first, only_second) + 1))
    split: float = 2 * tail / 2**n
    return min(1.0, split)


def holm(p_values: Sequence[float]) -> list[float]:
    """P values corrected for their number, by Holm's step-down rule.

    Args:
        p_values: (n,) of n comparisons.

    Returns:
        (n,) in the same order, each at least as high, at most 1.
    """
    order = sorted(range(len(p_values)), key=lambda number: p_values[number])
    corrected, most = [0.0] * len(p_values), 0.0
    for place, number in enumerate(order):
        most = max(most, min(1.0, (len(p_values) - place) * p_values[number]))
        corrected[number] = most
    return corrected
