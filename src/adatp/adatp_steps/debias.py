"""The two debiasing rules: shares between segments (global), an order within a segment (local).

Attention is compared only within a segment, and first only between tokens of one position. Scores are numbers
of any type and sign, such as logarithms of attention; NaN counts as the lowest.
"""

import torch
from torch import Tensor

# e^±20 spans 1e17 between segments. Long before that, one segment is capped and the other at its floor.
_MAX_EXPONENT = 20.0


def segment_weights(relevance: Tensor | None, tau_r: float, sizes: Tensor) -> Tensor:
    """Weight of a token of each segment: exp(r_hat / tau_r), where r_hat is the standardised relevance.

    Mean and deviation are weighted by `sizes`. So cutting one segment into two of the same relevance changes
    no segment's weight. Pass ones to count segments equally.

    Args:
        relevance: (S,), any scale. If None, constant up to rounding, or not finite, every segment weighs 1.
        tau_r: temperature. The smaller it is, the more goes to relevant segments; math.inf ignores relevance.
        sizes: (S,) tokens or frames of each segment.

    Returns:
        (S,) float32, positive and finite.

    Raises:
        ValueError: if tau_r is not positive.

    Source: ours (the paper gives no rule).
    """
    if not tau_r > 0:
        raise ValueError(f"tau_r must be positive, not {tau_r}")
    if relevance is None or len(sizes) == 0:
        return torch.ones_like(sizes, dtype=torch.float32)
    r, share = relevance.float(), sizes.float() / sizes.sum().clamp_min(1)
    centred = r - (share * r).sum()
    deviation = (share * centred.square()).sum().sqrt()
    # Rounding in a constant signal must not be blown up to one standard deviation.
    r_hat = torch.where(deviation > 1e-6 * r.abs().amax(), centred / deviation, 0.0)
    return (r_hat / tau_r).clamp(-_MAX_EXPONENT, _MAX_EXPONENT).exp()


def distinct_positions(segment: Tensor, position: Tensor, segments: int) -> Tensor:
    """Distinct positions in each segment: the tokens left if each position keeps one representative.

    Args:
        segment: (n,) int64 segment of each token.
        position: (n,) int64 spatial position of each token.
        segments: S, at least segment.max() + 1.

    Returns:
        (S,) int64.
    """
    tokens = torch.arange(len(position), device=position.device)
    order, rank = _by_position(tokens, segment, position)
    segment, first = segment[order], rank == 0
    count = torch.zeros(segments, dtype=torch.int64, device=segment.device)
    return count.index_add_(0, segment, first.long())


def select(
    scores: Tensor, segment: Tensor, position: Tensor, sizes: Tensor, share: Tensor, local: bool
) -> Tensor:
    """Choose the tokens that stay when each segment has its own share of the budget.

    With `local`, a segment's tokens are ordered by (position rank, score): each position's best frame comes
    first, then each position's second best. Up to the number of distinct positions, this keeps one token per
    position (the strict rule); beyond it, more (the relaxed rule). Without `local`, tokens are ordered by
    score alone. Among equal scores the earlier token comes first.

    A cut does not wait for the GPU and launches few kernels on it: three sorts at most.

    Args:
        scores: (n,) the higher the better.
        segment: (n,) int64 segment of each token, below 2^31.
        position: (n,) int64 spatial position of each token, below 2^32.
        sizes: (S,) int64, on the CPU, tokens of each segment.
        share: (S,) int64, on the CPU, tokens to keep of each segment, no more than it has.
        local: whether local debiasing is on.

    Returns:
        (k,) int64 indices, ascending, k = share.sum().

    Source: one representative per position is the paper's; the order is ours.
    """
    order = _order(scores, segment, position, local, by_segment=True)
    # The tokens of each segment are now contiguous, and the start of each segment is known here.
    before = (sizes.cumsum(0) - sizes) - (share.cumsum(0) - share)
    best = torch.arange(int(share.sum())) + before.repeat_interleave(share)
    return order[best.to(order.device, non_blocking=True)].sort().values


def select_overall(scores: Tensor, segment: Tensor, position: Tensor, keep: int, local: bool) -> Tensor:
    """Choose the tokens that stay when all segments share one budget (global debiasing off).

    Args:
        scores, segment, position, local: as in `select`; a position still belongs to one segment.
        keep: tokens to keep, no more than there are.

    Returns:
        (keep,) int64 indices, ascending.
    """
    order = _order(scores, segment, position, local, by_segment=False)
    return order[:keep].sort().values


def _order(scores: Tensor, segment: Tensor, position: Tensor, local: bool, by_segment: bool) -> Tensor:
    """(n,) int64: the tokens sorted by segment if asked, then by position rank if `local`, then by score."""
    best = _best_first(scores)
    if not local:
        return best[segment[best].argsort(stable=True)] if by_segment else best
    order, rank = _by_position(best, segment, position)
    key = torch.empty_like(rank).scatter_(0, order, rank)
    return best[(_pair(segment[best], key) if by_segment else key).argsort(stable=True)]


# The least important key is sorted first. Each later stable sort keeps the order made before it.


def _best_first(scores: Tensor) -> Tensor:
    """(n,) int64: the tokens from the highest score on. Among equal scores the earlier comes first."""
    # Ascending by zero minus the score: 0 and -0 become equal, and NaN comes last.
    return (0 - scores.detach()).argsort(stable=True)


def _by_position(best: Tensor, segment: Tensor, position: Tensor) -> tuple[Tensor, Tensor]:
    """Sort ``best`` stably by segment and position; also give each token's rank at its position."""
    place, order = _pair(segment, position)[best].sort(stable=True)
    rank = torch.arange(len(place), device=place.device) - torch.searchsorted(place, place)
    return order, rank


def _pair(first: Tensor, second: Tensor) -> Tensor:
    """(n,) int64 keys that sort by ``first`` (below 2^31), then by ``second`` (below 2^32)."""
    return second.add(first, alpha=1 << 32)
