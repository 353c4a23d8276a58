"""What attention owes to places, not to content: a prior fitted to the video's own scores."""

from __future__ import annotations

import torch
from torch import Tensor

_SWEEPS = 3


def without_place(log_scores: Tensor, time: Tensor, position: Tensor) -> Tensor:
    """Logarithms of attention less what time and spatial position explain of them.

    The prior is the sum of a parabola over time, which is high at both ends of a video if attention is, and
    of a mean for each spatial position, which is high where attention gathers in frame after frame. Both are
    fitted to these scores by least squares, one after the other in turns. What is left is the logarithm of
    attention over its prior.

    Args:
        log_scores: (n,) float64; where they are not finite they stay as they are.
        time: (n,) when each token is seen, in [0, 1].
        position: (n,) int64 spatial position of each token.

    Returns:
        (n,) float64.

    Source: ours; dividing by a prior of places is D2Pruner's and PoRe's, who take it from other inputs.
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
    """(n,) float64 in [0, 1]: when each token is seen, from its frame (n,) of so many."""
    return frame.double() / max(1, frames - 1)
