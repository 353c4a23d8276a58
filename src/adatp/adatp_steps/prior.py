"""Separates attention to places from attention to content: a prior fitted to the video's own scores."""

from __future__ import annotations

import torch
from torch import Tensor

_SWEEPS = 3


def without_place(log_scores: Tensor, time: Tensor, position: Tensor) -> Tensor:
    """Subtract from the logarithms of attention what time and spatial position explain of them.

    The prior is a sum of two terms. The first is a parabola over time, which is high at both ends of a video
    if attention is. The second is a mean per spatial position, which is high where attention gathers in many
    frames. Both are fitted to these scores by least squares, in turns. The result is the logarithm of
    attention divided by its prior.

    Args:
        log_scores: (n,) float64; values that are not finite stay as they are.
        time: (n,) time of each token, in [0, 1].
        position: (n,) int64 spatial position of each token.

    Returns:
        (n,) float64.

    Source: ours. D2Pruner and PoRe also divide by a prior of places, but take it from other inputs.
    """
    finite = log_scores.isfinite()
    left = log_scores.double().where(finite, 0.0)
    if int(finite.sum()) < 2:
        return log_scores
    weight = finite.double()
    count = torch.zeros(int(position.max()) + 1, dtype=torch.float64, device=left.device)
    count.index_add_(0, position, weight).clamp_(min=1)
    t = time.double() * 2 - 1
    curve = torch.stack([torch.ones_like(t), t, t.square()], 1) * weight[:, None]
    solve = torch.linalg.pinv(curve)
    for _ in range(_SWEEPS):
        left = left - (curve @ (solve @ (left * weight)))
        mean = torch.zeros_like(count).index_add_(0, position, left * weight) / count
        left = left - mean[position]
    return left.where(finite, log_scores.double())


def time_of(frame: Tensor, frames: int) -> Tensor:
    """(n,) float64 in [0, 1]: the time of each token, from the index of its frame (n,) among ``frames``."""
    return frame.double() / max(1, frames - 1)
