"""Which input embeddings show something new: the early stage, before the decoder offers any attention."""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

_PART = 1 << 24
"""Numbers of float32 held at a time, about."""


def novelty(
    tokens: Tensor, tau_d: float, there: Tensor, segment: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Novelty of each token relative to the tokens of its segment already selected as representatives.

    Frame by frame, a token is compared with the representatives of its spatial position so far. One whose
    cosine with all of them is below tau_d becomes a representative itself; others are near-duplicates.
    Novelty is one minus the highest cosine with those representatives and with the segment's mean direction,
    which stands for what the segment shows anyway. So a plain still background ranks last, its repeats after
    its first frame, and what shows in one place for one frame ranks first.

    Args:
        tokens: (T, P, d) projected tokens of T frames with P positions each, in order of time.
        tau_d: threshold on the cosine.
        there: (T, P) bool, where there is a token; elsewhere ``tokens`` are zeros, which nothing is like.
        segment: (T,) int64, ascending from 0: the segment of each frame. None: all are one segment's.

    Returns:
        (T, P) float32 novelty, in [0, 2], and (T, P) bool, the representatives; the first
        token of each position is one.

    Memory beyond ``tokens`` grows with the number of tokens, not with the square of the frames.

    Source: ours.
    """
    frames, places, width = tokens.shape
    # Some positions at a time: a long video in float32 is many times what the decoder then needs.
    parts = torch.split(tokens, max(1, _PART // (frames * width)), 1)
    mean = _mean_directions(parts, segment)
    closest = torch.empty(frames, places, device=tokens.device)
    representative = there.clone()
    # And some frames at a time, for each is compared with all before it: one block unless a scene is long.
    block = max(1, _PART // (frames * places))
    for first in range(0, frames, block):
        last = min(first + block, frames)
        cosines, nearest = [], []
        for part in parts:
            unit = _units(part[:last])
            cosines.append(torch.einsum("tpd,spd->tps", unit[first:], unit))
            nearest.append(_along(unit[first:], mean, first))
        cosine, closest[first:last] = torch.cat(cosines, 1), torch.cat(nearest, 1)
        for t in range(max(1, first), last):
            compared = representative[:t].T
            if segment is not None:
                compared = compared & (segment[:t] == segment[t])
            highest = cosine[t - first, :, :t].masked_fill(~compared, -torch.inf).amax(1)
            representative[t] &= highest < tau_d
            closest[t] = torch.maximum(closest[t], highest)
    return (1 - closest).clamp(0, 2), representative


def _mean_directions(parts: Sequence[Tensor], segment: Tensor | None) -> Tensor:
    """The mean direction of all tokens, (d,), or for each frame of its segment's tokens, (T, d)."""
    if segment is None:
        total = torch.stack([_units(part).sum((0, 1)) for part in parts]).sum(0)
    else:
        frames = torch.stack([_units(part).sum(1) for part in parts]).sum(0)
        total = (segment[:, None] == segment).float() @ frames
    return F.normalize(total, dim=-1)


def _along(unit: Tensor, mean: Tensor, first: int) -> Tensor:
    """(t, p) cosines of tokens (t, p, d), the frames from ``first`` on, with their mean direction."""
    if mean.dim() == 1:
        return unit @ mean
    return (unit @ mean[first : first + len(unit), :, None]).squeeze(-1)


def _units(tokens: Tensor) -> Tensor:
    """Tokens (..., d) in float32, of length one."""
    return F.normalize(tokens.float(), dim=-1)
