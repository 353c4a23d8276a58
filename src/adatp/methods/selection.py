"""Chooses tokens and splits budgets, as many methods do it. Tensors or plain numbers in and out.

The result of merging is written as ``owner``: for each token, the number of the token it is averaged into. A
kept token owns itself; -1 marks a dropped token.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Sequence
from itertools import accumulate, pairwise

import torch
from torch import Tensor


def top_first(scores: Tensor) -> Tensor:
    """(n,) int64: the order of scores (n,) from the highest. Among equal ones the earlier comes first; NaN
    is last.
    """
    lowest_last = scores.nan_to_num(nan=-math.inf, posinf=math.inf, neginf=-math.inf)
    return lowest_last.argsort(descending=True, stable=True)


def top(scores: Tensor, keep: int) -> Tensor:
    """Indices of the ``keep`` highest scores (n,), ascending; ties as in `top_first`."""
    return top_first(scores)[:keep].sort().values


def top_by_group(scores: Tensor, group: Tensor, sizes: Tensor, share: Tensor) -> Tensor:
    """Choose the tokens with the highest scores of each group.

    Args:
        scores: (n,); among equal ones the earlier comes first, NaN is last.
        group: (n,) int64 group of each token, from 0.
        sizes: (G,) int64, on the CPU: tokens of each group.
        share: (G,) int64, on the CPU: tokens to choose of each group, no more than it has.

    Returns:
        (k,) int64 indices, ascending.
    """
    order = top_first(scores)
    by_group = torch.split(order[group[order].argsort(stable=True)], sizes.tolist())
    return (
        torch.cat([best[:count] for best, count in zip(by_group, share.tolist(), strict=True)]).sort().values
    )


def evenly_spaced(count: int, length: int) -> Tensor:
    """(count,) int64: indices spread evenly over ``length``: the middles of ``count`` equal parts."""
    return (torch.arange(count) * 2 + 1) * length // max(1, 2 * count)


def kept_and_into(owner: Tensor) -> tuple[Tensor, Tensor]:
    """The tokens that stay (k,), ascending, and for each token (n,) its owner's index among them, or -1.

    Args:
        owner: (n,) int64, see above.
    """
    stays = owner == torch.arange(len(owner), device=owner.device)
    number = stays.cumsum(0) - 1
    return stays.nonzero().squeeze(1), number[owner.clamp(min=0)].where(owner >= 0, -1)


def split_in_proportion(total: int, sizes: Sequence[int]) -> list[int]:
    """Split ``total`` in proportion to ``sizes``. Remainders are spread evenly; no share exceeds its size.

    Args:
        total: at most the sum of sizes.
        sizes: (S,) of the parts.
    """
    size = max(1, sum(sizes))
    ends = [total * end // size for end in accumulate(sizes, initial=0)]
    return [end - begin for begin, end in pairwise(ends)]


def split_evenly(total: int, capacities: Sequence[int]) -> list[int]:
    """Split ``total`` as evenly as the capacities allow. What exceeds their sum is not handed out."""
    shares = [0] * len(capacities)
    left = total
    for done, part in enumerate(sorted(range(len(capacities)), key=lambda part: capacities[part])):
        shares[part] = min(capacities[part], left // (len(capacities) - done))
        left -= shares[part]
    return shares


def allocate(
    sizes: Tensor, weights: Tensor, keep: int, floor: int = 1, capacity: Tensor | None = None
) -> Tensor:
    """Split a budget between segments in proportion to sizes x weights, within bounds (water-filling).

    The real-valued shares are clamp(lambda x sizes x weights, min(floor, capacity), capacity), with the
    lambda that spends the budget. They are rounded by largest remainder, with ties to the earlier segment. If
    the budget is less than the floors, the floor is lowered to what all segments can have. Below one token
    each, the segments with the largest sizes x weights get one.

    Computed on the host, in float64. If inputs are on the CPU, nothing waits for the GPU. (After `select`,
    the live tokens are the shares themselves.)

    Args:
        sizes: (S,) int64 tokens of each segment.
        weights: (S,) non-negative, e.g. from `segment_weights`; only their ratios matter.
        keep: tokens to keep in all.
        floor: tokens that each segment keeps at least, as far as it has them.
        capacity: (S,) int64, most tokens that each segment can keep; by default sizes. Passing the live
            tokens as both, layer after layer, compounds the weights. To apply the weights once, pass the
            original sizes of the segments and the live tokens as capacity.

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
    # The least positive demand keeps ratios finite. Segments without demand get what the others can't hold.
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
    """1 for the `count` largest keys (ties: the earlier ones), else 0."""
    chosen = {*sorted(range(len(key)), key=lambda number: -key[number])[:count]}
    return [int(number in chosen) for number in range(len(key))]


def _water_fill(demand: list[float], low: list[int], high: list[int], keep: int) -> list[float]:
    """clamp(level * demand, low, high) that sums to keep, where sum(low) <= keep < sum(high)."""
    bounds = [(d, float(least), float(most)) for d, least, most in zip(demand, low, high, strict=True)]

    def filled(level: float) -> list[float]:
        # Not min and max: they take three times as long.
        return [least if (x := level * d) < least else most if x > most else x for d, least, most in bounds]

    # The total is piecewise linear in the level and bends only at these values. Find the piece, then
    # interpolate.
    levels = sorted([least / d for d, least, _ in bounds] + [most / d for d, _, most in bounds])
    right = bisect_right(levels, float(keep), key=lambda level: sum(filled(level)))
    left_level, right_level = levels[right - 1], levels[right]
    below, above = sum(filled(left_level)), sum(filled(right_level))
    return filled(left_level + (keep - below) / (above - below) * (right_level - left_level))
