"""The two debiasing rules: shares between segments (global), an order within a segment (local).

Attention is compared only between tokens of one segment, and first only between tokens of one position.
Scores are not negative; NaN counts as the lowest.
"""

import math
from bisect import bisect_right

import torch
from torch import Tensor

# e^±20 spans 1e17 between segments: far past the point where the one is capped and the other at its floor.
_MAX_EXPONENT = 20.0


def segment_weights(relevance: Tensor | None, tau_r: float, sizes: Tensor) -> Tensor:
    """Weight of a token of each segment: exp(r_hat / tau_r), r_hat the standardised relevance.

    Mean and deviation are weighted by `sizes`, so that cutting one segment into two of the same relevance
    changes no segment's weight; pass ones to count segments equally.

    Args:
        relevance: (S,), any scale; None, or constant up to rounding, or not finite: every segment weighs 1.
        tau_r: temperature; the smaller, the more goes to relevant segments, math.inf ignores relevance.
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
        return torch.ones(len(sizes), device=sizes.device)
    r, share = relevance.float(), sizes.float() / sizes.sum().clamp_min(1)
    centred = r - (share * r).sum()
    deviation = (share * centred.square()).sum().sqrt()
    # Rounding in a constant signal must not be blown up to one standard deviation.
    r_hat = torch.where(deviation > 1e-6 * r.abs().amax(), centred / deviation, 0.0)
    return (r_hat / tau_r).clamp(-_MAX_EXPONENT, _MAX_EXPONENT).exp()


def allocate(
    sizes: Tensor, weights: Tensor, keep: int, floor: int = 1, capacity: Tensor | None = None
) -> Tensor:
    """Split a budget between segments in proportion to sizes x weights, within bounds (water-filling).

    The real-valued shares are clamp(lambda x sizes x weights, min(floor, capacity), capacity) with the lambda
    that spends the budget; they are rounded by largest remainder, ties to the earlier segment. Where the
    budget is less than the floors, the floor is lowered to what all can have; below one each, the segments of
    largest sizes x weights get one each.

    Computed on the host, in float64. Inputs on the CPU (the live tokens after `select` are the shares
    themselves) make it free of synchronisation.

    Args:
        sizes: (S,) int64 tokens of each segment.
        weights: (S,) non-negative, e.g. from `segment_weights`; only their ratios matter.
        keep: tokens to keep in all.
        floor: tokens that each segment keeps at least, as far as it has them.
        capacity: (S,) int64, most tokens that each segment can keep; by default sizes. Note that sizes =
            capacity = live tokens, applied layer after layer, compounds the weights; pass the sizes that
            the segments had at first and the live tokens as capacity to apply them once.

    Returns:
        (S,) int64 on the device of sizes, 0 <= share <= capacity, summing to min(keep, capacity.sum()).

    Raises:
        ValueError: if keep or floor is negative, or a weight is negative or not finite.

    Source: ours.
    """
    if keep < 0 or floor < 0:
        raise ValueError(f"keep and floor must not be negative: keep={keep}, floor={floor}")
    # Plain numbers: for the few segments of a video a tensor operation costs more than its arithmetic.
    high: list[int] = (sizes if capacity is None else capacity).tolist()
    weight: list[float] = weights.tolist()
    if not all(0 <= each < math.inf for each in weight):
        raise ValueError("weights must be finite and not negative")
    if keep >= sum(high):
        return torch.tensor(high, dtype=torch.int64, device=sizes.device)

    demand = [size * each for size, each in zip(sizes.tolist(), weight, strict=True)]
    # The least positive demand keeps ratios finite; segments without any get what the others cannot hold.
    most = max(*demand, 1e-300)
    demand = [max(each / most, 1e-30) for each in demand]
    low = [min(each, floor) for each in high]
    if sum(low) > keep:
        even = keep // sum(each > 0 for each in high)
        low = [min(each, even) for each in high]
        if not even:
            wanted = [d if h else -1.0 for d, h in zip(demand, high, strict=True)]
            return torch.tensor(_one_each(wanted, keep), device=sizes.device)

    ideal = _water_fill(demand, low, high, keep)
    share = [int(each) for each in ideal]
    more = _one_each([i - s for i, s in zip(ideal, share, strict=True)], keep - sum(share))
    return torch.tensor([s + m for s, m in zip(share, more, strict=True)], device=sizes.device)


def _one_each(key: list[float], count: int) -> list[int]:
    """1 for the `count` largest keys, ties to the earlier, else 0."""
    chosen = {*sorted(range(len(key)), key=lambda number: -key[number])[:count]}
    return [int(number in chosen) for number in range(len(key))]


def _water_fill(demand: list[float], low: list[int], high: list[int], keep: int) -> list[float]:
    """clamp(level * demand, low, high) that sums to keep, for sum(low) <= keep < sum(high)."""
    bounds = [(d, float(least), float(most)) for d, least, most in zip(demand, low, high, strict=True)]

    def filled(level: float) -> list[float]:
        # Not min and max, which take three times as long.
        return [least if (x := level * d) < least else most if x > most else x for d, least, most in bounds]

    # The total is piecewise linear in the level and bends only here: find the piece, then interpolate.
    levels = sorted([least / d for d, least, _ in bounds] + [most / d for d, _, most in bounds])
    right = bisect_right(levels, float(keep), key=lambda level: sum(filled(level)))
    left_level, right_level = levels[right - 1], levels[right]
    below, above = sum(filled(left_level)), sum(filled(right_level))
    return filled(left_level + (keep - below) / (above - below) * (right_level - left_level))


def position_rank(scores: Tensor, segment: Tensor, position: Tensor) -> Tensor:
    """Rank of each token among those at its own spatial position of its own segment, best first.

    Args:
        scores: (n,) any floating type, not negative, compared in float32.
        segment: (n,) int64 segment of each token, below 2^16.
        position: (n,) int64 spatial position of each token in its frame's grid, below 2^16.

    Returns:
        (n,) int64; 0 is the position's best frame. Equal scores: the earlier token first.

    Source: ours (the paper keeps one token a position; which one is not published).
    """
    order, _, rank = _by_position(_keys(scores, segment, position))
    return torch.empty_like(order).scatter_(0, order, rank)


def distinct_positions(segment: Tensor, position: Tensor, segments: int) -> Tensor:
    """Distinct positions of each segment: the tokens that one representative a position leaves.

    Args:
        segment: (n,) int64 segment of each token.
        position: (n,) int64 spatial position of each token.
        segments: S, at least segment.max() + 1.

    Returns:
        (S,) int64.
    """
    first = position_rank(torch.zeros_like(position), segment, position) == 0
    count = torch.zeros(segments, dtype=torch.int64, device=segment.device)
    return count.index_add_(0, segment, first.long())


def select(
    scores: Tensor, segment: Tensor, position: Tensor, sizes: Tensor, share: Tensor, local: bool
) -> Tensor:
    """The tokens that stay: of each segment its share of tokens, the best by the local rule.

    With `local` a segment's tokens are ordered by (position rank, score): each position's best frame, then
    each position's second best. Up to the number of distinct positions that is one token a position (the
    strict rule), beyond it the relaxed one. Without, by score alone. Equal scores: the earlier token first.

    A cut waits for no GPU, and launches few kernels on it: two sorts of keys that hold all that is compared.

    Args:
        scores: (n,) any floating type, not negative, compared in float32; NaN counts as 0.
        segment: (n,) int64 segment of each token, below 2^16.
        position: (n,) int64 spatial position of each token, below 2^16.
        sizes: (S,) int64, on the CPU, tokens of each segment.
        share: (S,) int64, on the CPU, tokens to keep of each segment, no more than it has (`allocate`). Of
            one entry, as is `sizes` then: one share for all segments together; a position is still a position
            of its own segment.
        local: whether local debiasing is on.

    Returns:
        (k,) int64 indices, ascending, k = share.sum().

    Source: the paper's one representative a position; the order is ours.
    """
    owned = _SEGMENT if len(share) > 1 else 0
    if local:
        order, key, rank = _by_position(_keys(scores, segment, position))
        key = torch.empty_like(key).scatter_(0, order, (key & (owned | _SCORE)) + (rank << _SCORE_BITS))
    else:
        key = _keys(scores, segment if owned else None)
    order = key.argsort(stable=True)
    # A segment's tokens now lie side by side, and where is known here: of each its first `share`.
    before = (sizes.cumsum(0) - sizes) - (share.cumsum(0) - share)
    best = torch.arange(int(share.sum())) + before.repeat_interleave(share)
    return order[best.to(order.device, non_blocking=True)].sort().values


# A key holds segment, then position or rank, then score, so that one sort of one number compares all three.
_SCORE_BITS, _POSITION_BITS = 31, 16
_SCORE = (1 << _SCORE_BITS) - 1
_SEGMENT = ((1 << 16) - 1) << (_SCORE_BITS + _POSITION_BITS)


def _keys(scores: Tensor, segment: Tensor | None, position: Tensor | None = None) -> Tensor:
    """(n,) int64 that sort by segment, then position, then from the highest score."""
    # The bits of floats that are not negative sort as the floats do.
    key = _SCORE - scores.detach().float().nan_to_num(nan=0.0, posinf=math.inf).view(torch.int32)
    if position is not None:
        key = key + (position << _SCORE_BITS)
    return key if segment is None else key + (segment << (_SCORE_BITS + _POSITION_BITS))


def _by_position(key: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The order of the keys (n,), they in that order, and the rank of each among those of its position."""
    key, order = key.sort(stable=True)
    place = key >> _SCORE_BITS
    return order, key, torch.arange(len(key), device=key.device) - torch.searchsorted(place, place)
