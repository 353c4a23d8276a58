"""Finds input embeddings that show something new, before any attention is known."""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

_PART = 1 << 24
"""Approximate number of float32 values held at a time."""


def novelty(
    tokens: Tensor, tau_d: float, there: Tensor, segment: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Novelty of each token relative to the tokens of its segment already selected as representatives.

    Frames are read in order. A token is compared with the representatives found so far at its spatial
    position. If its cosine with all of them is below tau_d, it becomes a representative. Otherwise it is a
    near-duplicate. Novelty is one minus the highest cosine with those representatives and with the segment's
    mean direction. The mean direction stands for what the segment shows anyway. So a plain still background
    ranks last, and its repeats rank below its first frame. What appears in one place for one frame ranks
    first.

    Args:
        tokens: (T, P, d) projected tokens of T frames with P positions each, in order of time.
        tau_d: threshold on the cosine.
        there: (T, P) bool, where there is a token; elsewhere ``tokens`` are zeros, which are similar to
            nothing.
        segment: (T,) int64, ascending from 0: the segment of each frame. None: there is one segment.

    Returns:
        (T, P) float32 novelty, in [0, 2], and (T, P) bool, the representatives. The first token of each
        position is always one.

    Memory beyond ``tokens`` grows with the number of tokens, not with the square of the frames.

    Source: ours.
    """
    frames, places, width = tokens.shape
    # Positions are processed in parts: in float32 a long video takes many times the memory that the decoder
    # needs.
    parts = torch.split(tokens, max(1, _PART // (frames * width)), 1)
    mean = _mean_directions(parts, segment)
    closest = torch.empty(frames, places, device=tokens.device)
    representative = there.clone()
    # Frames are processed in parts too, since each is compared with all earlier ones. Short scenes fit one
    # part.
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
    """Mean direction of all tokens, (d,); with ``segment``, that of each frame's segment, (T, d)."""
    if segment is None:
        total = torch.stack([_units(part).sum((0, 1)) for part in parts]).sum(0)
    else:
        frames = torch.stack([_units(part).sum(1) for part in parts]).sum(0)
        total = (segment[:, None] == segment).float() @ frames
    return F.normalize(total, dim=-1)


def _along(unit: Tensor, mean: Tensor, first: int) -> Tensor:
    """(t, p) cosines of tokens (t, p, d) with their mean direction; the tokens' first frame is ``first``."""
    if mean.dim() == 1:
        return unit @ mean
    return (unit @ mean[first : first + len(unit), :, None]).squeeze(-1)


def _units(tokens: Tensor) -> Tensor:
    """Tokens (..., d) in float32, scaled to length one."""
    return F.normalize(tokens.float(), dim=-1)
