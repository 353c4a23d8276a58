"""Finds input embeddings that show something new, before any attention is known."""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

_PART = 1 << 24
"""Approximate number of float32 values held at a time."""


def representatives(tokens: Tensor, tau_d: float, there: Tensor, segment: Tensor | None = None) -> Tensor:
    """Tokens that show something which their spatial position has not shown before in their segment.

    Frames are read in order. A token is compared with the representatives found so far at its spatial
    position. If its cosine with all of them is below tau_d, it becomes a representative. Otherwise it is a
    near-duplicate.

    Args:
        tokens: (T, P, d) projected tokens of T frames with P positions each, in order of time.
        tau_d: threshold on the cosine.
        there: (T, P) bool, where there is a token; elsewhere ``tokens`` are zeros, which are similar to
            nothing.
        segment: (T,) int64, ascending from 0: the segment of each frame. None: there is one segment.

    Returns:
        (T, P) bool. The first token of each position is always one.

    Memory beyond ``tokens`` grows with the number of tokens, not with the square of the frames.

    Source: ours.
    """
    return _compared(_parts(tokens), tau_d, there, segment, None)[0]


def novelty(tokens: Tensor, tau_d: float, there: Tensor) -> tuple[Tensor, Tensor]:
    """Novelty of each token relative to the tokens of its segment already selected as representatives.

    Novelty is one minus the highest cosine with those representatives and with the segment's mean direction.
    The mean direction stands for what the segment shows anyway. So a plain still background ranks last, and
    its repeats rank below its first frame. What appears in one place for one frame ranks first.

    Args:
        tokens: (T, P, d) tokens of one segment, as in `representatives`.
        tau_d: threshold on the cosine.
        there: (T, P) bool, where there is a token.

    Returns:
        (T, P) float32 novelty, in [0, 2], and (T, P) bool, the `representatives`.

    Source: ours.
    """
    parts = _parts(tokens)
    mean = F.normalize(torch.stack([_units(part).sum((0, 1)) for part in parts]).sum(0), dim=-1)
    representative, closest = _compared(parts, tau_d, there, None, mean)
    return (1 - closest).clamp(0, 2), representative


def _compared(
    parts: Sequence[Tensor], tau_d: float, there: Tensor, segment: Tensor | None, mean: Tensor | None
) -> tuple[Tensor, Tensor]:
    """The representatives, and how close each token is to those before it and to a mean direction.

    Args:
        parts: the tokens, from `_parts`.
        tau_d: threshold on the cosine.
        there: (T, P) bool, where there is a token.
        segment: (T,) int64, the segment of each frame; None: there is one.
        mean: (d,) a direction that tokens are compared with as well; None: there is none.

    Returns:
        (T, P) bool, and the highest cosine (T, P) float32. Without anything to compare with, it is -inf.
    """
    frames, places = there.shape
    closest = there.new_full(there.shape, -torch.inf, dtype=torch.float32)
    representative = there.clone()
    # Frames are processed in parts too, since each is compared with all earlier ones. Short scenes fit one
    # part.
    block = max(1, _PART // (frames * places))
    for first in range(0, frames, block):
        last = min(first + block, frames)
        cosines, along = [], []
        for part in parts:
            unit = _units(part[:last])
            cosines.append(torch.einsum("tpd,spd->tps", unit[first:], unit))
            if mean is not None:
                along.append(unit[first:] @ mean)
        cosine = torch.cat(cosines, 1)
        if along:
            closest[first:last] = torch.cat(along, 1)
        for t in range(max(1, first), last):
            compared = representative[:t].T
            if segment is not None:
                compared = compared & (segment[:t] == segment[t])
            highest = cosine[t - first, :, :t].masked_fill(~compared, -torch.inf).amax(1)
            representative[t] &= highest < tau_d
            closest[t] = torch.maximum(closest[t], highest)
    return representative, closest


def _parts(tokens: Tensor) -> Sequence[Tensor]:
    """Tokens (T, P, d) by groups of positions.

    In float32 a long video takes many times the memory that the decoder needs.
    """
    frames, _, width = tokens.shape
    return torch.split(tokens, max(1, _PART // (frames * width)), 1)


def _units(tokens: Tensor) -> Tensor:
    """Tokens (..., d) in float32, scaled to length one."""
    return F.normalize(tokens.float(), dim=-1)
