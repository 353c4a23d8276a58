"""Merges dropped tokens: near-duplicates are averaged into the tokens that stay."""

import torch
from torch import Tensor
from torch.nn import functional as F

_PART = 1 << 24
"""Approximate number of cosines held at a time."""


def merge_targets(states: Tensor, segment: Tensor, kept: Tensor, tau_m: float) -> Tensor:
    """For each token, the kept token of its segment that it is averaged into.

    Args:
        states: (n, d).
        segment: (n,) int64 segment of each token.
        kept: (k,) int64 rows of the tokens that stay, ascending.
        tau_m: least cosine with the most similar kept token of the segment.

    Returns:
        (n,) int64 indices into ``kept``. -1 marks tokens that are dropped without being merged. Kept tokens
        point to themselves.

    Source: ours.
    """
    units = F.normalize(states.float(), dim=-1)
    targets, own = units[kept], segment[kept]
    into = torch.full((len(states),), -1, device=states.device)
    rows = max(1, _PART // max(1, len(kept)))
    for first in range(0, len(states), rows):
        part = slice(first, first + rows)
        cosine = (units[part] @ targets.T).masked_fill(segment[part, None] != own, -2)
        most, which = cosine.max(-1)
        into[part] = which.where(most >= tau_m, -1)
    into[kept] = torch.arange(len(kept), device=states.device)
    return into
