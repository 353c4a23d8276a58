"""The two debiasing rules: shares between segments (global), an order within a segment (local).

Attention is compared only between tokens of one segment, and first only between tokens of one position.
NaN scores count as the lowest.
"""

import math

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

    Computed on the host, in float64: S numbers are cheaper there than as kernels. Inputs on the CPU (the live
    tokens after `select` are the shares themselves) make it free of synchronisation.

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
    high = (sizes if capacity is None else capacity).cpu().double()
    weight = weights.detach().cpu().double()
    if not ((weight >= 0) & (weight < math.inf)).all():
        raise ValueError("weights must be finite and not negative")
    if keep >= high.sum():
        return high.long().to(sizes.device)

    demand = sizes.cpu() * weight
    # The least positive demand keeps ratios finite; segments without any get what the others cannot hold.
    demand = (demand / demand.amax().clamp_min(1e-300)).clamp_min(1e-30)
    low = high.clamp_max(floor)
    if low.sum() > keep:
        low = high.clamp_max(keep // int(high.count_nonzero()))
        if low.sum() == 0:
            return _one_each(demand.masked_fill(high == 0, -1.0), keep).to(sizes.device)

    ideal = _water_fill(demand, low, high, keep)
    share = ideal.floor()
    return (share.long() + _one_each(ideal - share, keep - int(share.sum()))).to(sizes.device)


def _one_each(key: Tensor, count: int) -> Tensor:
    """1 for the `count` largest keys, ties to the earlier, else 0."""
    chosen = key.argsort(descending=True, stable=True)[:count]
    return torch.zeros(len(key), dtype=torch.int64).index_fill_(0, chosen, 1)


def _water_fill(demand: Tensor, low: Tensor, high: Tensor, keep: int) -> Tensor:
    """clamp(level * demand, low, high) that sums to keep, for low.sum() <= keep < high.sum()."""
    levels: list[float] = torch.cat([low / demand, high / demand]).sort().values.tolist()

    def total(level: float) -> float:
        return float((level * demand).clamp(low, high).sum())

    # The total is piecewise linear in the level and bends only at `levels`: find the piece, then interpolate.
    left, right = 0, len(levels) - 1
    while right - left > 1:
        middle = (left + right) // 2
        left, right = (middle, right) if total(levels[middle]) <= keep else (left, middle)
    below, above = total(levels[left]), total(levels[right])
    step = (keep - below) / (above - below) if above > below else 0.0
    level = levels[left] + step * (levels[right] - levels[left])
    return torch.clamp(level * demand, low, high)


def position_rank(scores: Tensor, segment: Tensor, position: Tensor) -> Tensor:
    """Rank of each token among those at its own spatial position of its own segment, best first.

    Args:
        scores: (n,) any floating type, compared in float32.
        segment: (n,) int64 segment of each token.
        position: (n,) int64 spatial position of each token in its frame's grid.

    Returns:
        (n,) int64; 0 is the position's best frame. Equal scores: the earlier token first.

    Source: ours (the paper keeps one token a position; which one is not published).
    """
    order = _in_order(segment, position, scores)
    return torch.empty_like(order).index_copy_(0, order, _run_index(segment[order], position[order]))


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


def select(scores: Tensor, segment: Tensor, position: Tensor, share: Tensor, local: bool) -> Tensor:
    """The tokens that stay: of each segment its share of tokens, the best by the local rule.

    With `local` a segment's tokens are ordered by (position rank, score): each position's best frame, then
    each position's second best. Up to the number of distinct positions that is one token a position (the
    strict rule), beyond it the relaxed one. Without, by score alone. Equal scores: the earlier token first.

    Args:
        scores: (n,) any floating type, compared in float32.
        segment: (n,) int64 segment of each token.
        position: (n,) int64 spatial position of each token.
        share: (S,) int64 tokens to keep, no more than the segment has (`allocate`). On the CPU, whatever the
            device of the rest, it costs no synchronisation.
        local: whether local debiasing is on.

    Returns:
        (k,) int64 indices, ascending, k = share.sum().

    Source: the paper's one representative a position; the order is ours.
    """
    kept = int(share.sum())
    rank = position_rank(scores, segment, position) if local else torch.zeros_like(segment)
    order = _in_order(segment, rank, scores)
    owner = segment[order]
    stays = _run_index(owner) < share.to(owner.device, non_blocking=True)[owner]
    return flagged(torch.empty_like(stays).scatter_(0, order, stays), kept)


def flagged(flags: Tensor, count: int) -> Tensor:
    """Indices of what is True, ascending, where their number is known: a GPU need not be asked for it.

    Args:
        flags: (n,) bool.
        count: how many are True.

    Returns:
        (count,) int64.
    """
    place = (flags.cumsum(0) - 1).where(flags, count)
    found = torch.empty(count + 1, dtype=torch.int64, device=flags.device)
    return found.scatter_(0, place, torch.arange(len(flags), device=flags.device))[:count]


def _in_order(first: Tensor, second: Tensor, scores: Tensor) -> Tensor:
    """Indices that sort by first, then second (below 2^31), then from the highest score; ties by index.

    Sorting is the dearest part of a cut on a GPU: the last two keys are one.
    """
    lowest_last = -scores.detach().float().nan_to_num(nan=-math.inf, posinf=math.inf, neginf=-math.inf) + 0.0
    bits = lowest_last.view(torch.int32)  # of floats, they sort as the floats do but for the negative ones
    bits = bits ^ ((bits >> 31) & 0x7FFFFFFF)
    order = ((second << 32) + bits).argsort(stable=True)
    return order[first[order].argsort(stable=True)]


def _run_index(*keys: Tensor) -> Tensor:
    """Index within its run of each element of sorted keys (n,): 0, 1, 2, 0, 1, ..."""
    index = torch.arange(len(keys[0]), device=keys[0].device)
    starts = torch.zeros_like(index)
    for key in keys:
        starts[1:] = torch.where(key[1:] != key[:-1], index[1:], starts[1:])
    return index - starts.cummax(0).values
