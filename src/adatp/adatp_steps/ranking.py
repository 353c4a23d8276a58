"""Orders in which tokens can be dropped, other than attention alone."""

import torch
from torch import Tensor


def rank_of(scores: Tensor) -> Tensor:
    """(n,) float64 in (0, 1]: rank of each score (n,), 1 for the highest. Among equal scores the earlier
    is higher.
    """
    order = (0 - scores).argsort(stable=True)
    rank = torch.empty(len(scores), dtype=torch.float64, device=scores.device)
    rank[order] = torch.arange(len(scores), 0, -1, dtype=torch.float64, device=scores.device)
    return rank / max(1, len(scores))


def both(first: Tensor, second: Tensor) -> Tensor:
    """(n,) float64: combine two scores (n,) into one ranking, by the mean of their ranks."""
    return (rank_of(first) + rank_of(second)) / 2


def by_chance(tokens: int) -> Tensor:
    """(n,) float64: a random order, always the same for the same number of tokens."""
    return torch.rand(tokens, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
