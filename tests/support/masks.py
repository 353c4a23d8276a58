"""Masks of single queries, with padding that attends to one thing or another."""

from __future__ import annotations

import torch
from torch import Tensor

LOWEST = torch.finfo(torch.float32).min
PADS = {
    "nothing": lambda seen, real: seen & real[:, :, None],
    "themselves": lambda seen, real: (seen & real[:, :, None]) | torch.eye(seen.shape[2], dtype=torch.bool),
    "what comes before": lambda seen, real: seen,
    "that and themselves": lambda seen, real: seen | torch.eye(seen.shape[2], dtype=torch.bool),
    "everything": lambda seen, real: seen | ~real[:, :, None],
    "everything where nothing is left": lambda seen, real: seen | ~seen.any(2, keepdim=True),
}


def per_query(real: Tensor, pads: str, first: int, hidden: float | None) -> Tensor:
    """(B, 1, L, S) mask of the tokens from ``first`` on."""
    causal = torch.ones(real.shape[1], real.shape[1], dtype=torch.bool).tril()
    seen = PADS[pads](causal & real[:, None], real)[:, None, first:]
    if hidden is None:
        return seen
    return torch.zeros(seen.shape).masked_fill(~seen, hidden)
