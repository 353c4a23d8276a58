"""Converts attention masks of the complete sequence for a layer that processes and holds a part of it."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from adatp.engine.rows import FILLER, take_rows
from adatp.engine.slots import CacheSlots


def remap_mask(
    mask: Tensor | None,
    slots: CacheSlots,
    index: Tensor | None,
    past: int,
    length: int,
    first: int,
    fixed: int | None,
    flash: bool,
) -> Tensor | None:
    """Convert an attention mask of the complete sequence to one layer's queries and keys.

    Args:
        mask: None (causal), (B, S) padding (flash attention), or (B or 1, heads or 1, length, S), boolean or
            additive; S positions of the complete sequence, followed by unused ones for a static cache.
        slots: the slots that the layer's cache hands out, this call's tokens included.
        index: (B, n) positions in this call of the layer's queries, FILLER where padded; None: all of them.
        past: length of the sequence before this call.
        length: tokens of this call.
        first: position of the mask's first column; earlier tokens are outside a sliding window.
        fixed: least number of keys of a static cache, None if the cache grows.
        flash: whether padding masks are two-dimensional.

    Returns:
        A mask of the same kind, or None where causality alone is right. Fillers are hidden from all other
        tokens. Each filler attends at least to itself, since a softmax over nothing is NaN. Flash attention
        reads as many of a static cache's keys as its mask is wide, and all of them without a mask. So its
        mask has no columns for unused slots, and exists wherever there are any.
    """
    columns = slots.index
    unused = fixed is not None and fixed > columns.shape[1]
    if mask is None and not slots.ragged and not (flash and unused):
        return None
    if fixed is not None and unused and not flash:
        columns = F.pad(columns, (0, fixed - columns.shape[1]), value=FILLER)
    gone = columns < first  # includes fillers
    at = (columns - first if first else columns).clamp(min=0)
    hidden: float
    visible: float
    if flash:
        if mask is None:
            return ~gone
        return mask.gather(1, at.to(mask.device).expand(len(mask), -1)).masked_fill(gone.to(mask.device), 0)
    samples = max(len(part) for part in (index, columns, mask) if part is not None)
    at, gone = at.expand(samples, -1), gone.expand(samples, -1)
    if index is not None:
        index = index.expand(samples, -1)
    if mask is None:
        hidden, visible = False, True
        row = torch.arange(length, device=columns.device)[None] if index is None else index
        picked = (at[:, None] + first <= row[..., None] + past)[:, None]
    else:
        hidden, visible = (False, True) if mask.dtype == torch.bool else (torch.finfo(mask.dtype).min, 0)
        rows = mask.expand(samples, -1, -1, -1)
        if index is not None:
            rows = take_rows(rows.transpose(1, 2), index.clamp(min=0)).transpose(1, 2)
        picked = rows.gather(3, at[:, None, None].to(mask.device).expand(*rows.shape[:3], -1))
    picked = picked.masked_fill(gone[:, None, None].to(picked.device), hidden)
    if index is not None and slots.ragged:  # a view of each query's own column: does not wait for the GPU
        own = picked.diagonal(slots.count(slots.end) - index.shape[1], 2, 3)
        own.masked_fill_((index < 0)[:, None].to(picked.device), visible)
    return picked
