"""Splitting budgets and choosing tokens, against plain re-statements."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from adatp.methods.selection import allocate, top_by_group

unhurried = settings(deadline=None)


@st.composite
def shares(draw: st.DrawFn) -> tuple[Tensor, Tensor, Tensor, int, int]:
    segments = draw(st.integers(1, 10))
    column = st.lists(st.integers(0, 60), min_size=segments, max_size=segments)
    sizes, capacity = draw(column), draw(column)
    exponent = st.floats(-2, 2) | st.floats(-30, 30)
    weights = [math.exp(draw(exponent)) for _ in range(segments)]
    keep, floor = draw(st.integers(0, sum(capacity) + 3)), draw(st.integers(0, 3))
    return torch.tensor(sizes), torch.tensor(weights), torch.tensor(capacity), keep, floor


@unhurried
@given(shares())
def test_shares_spend_the_budget_exactly_within_bounds(
    case: tuple[Tensor, Tensor, Tensor, int, int],
) -> None:
    sizes, weights, capacity, keep, floor = case
    share = allocate(sizes, weights, keep, floor, capacity)
    assert share.dtype == torch.int64
    assert share.sum() == min(keep, int(capacity.sum()))
    assert (share >= 0).all()
    assert (share <= capacity).all()
    low = capacity.clamp_max(floor)
    if low.sum() <= keep:
        assert (share >= low).all()
    elif keep >= capacity.count_nonzero():
        assert (share >= capacity.clamp_max(1)).all()
    assert share.tolist() == allocate(sizes, 1024 * weights, keep, floor, capacity).tolist()


@unhurried
@given(shares())
def test_shares_are_within_one_of_the_proportional_ones(
    case: tuple[Tensor, Tensor, Tensor, int, int],
) -> None:
    sizes, weights, capacity, keep, floor = case
    low, high = capacity.clamp_max(floor).double(), capacity.double()
    demand = sizes.clamp_min(1) * weights.double()
    if not low.sum() <= keep < high.sum() or (sizes == 0).any():
        return
    below, above = -200.0, 200.0  # the logarithm of the water level
    for _ in range(200):
        middle = (below + above) / 2
        if (math.exp(middle) * demand).clamp(low, high).sum() <= keep:
            below = middle
        else:
            above = middle
    ideal = (math.exp(below) * demand).clamp(low, high)
    share = allocate(sizes, weights, keep, floor, capacity)
    assert ((share - ideal).abs() < 1 + 1e-6).all()
    up, down = share > ideal + 1e-6, share < ideal - 1e-6
    if up.any() and down.any():  # by largest remainder
        assert (ideal - ideal.floor())[up].min() >= (ideal - ideal.floor())[down].max() - 1e-6


def test_shares_by_hand() -> None:
    def split(sizes: list[int], weights: list[float], keep: int, floor: int = 1) -> list[int]:
        return allocate(torch.tensor(sizes), torch.tensor(weights), keep, floor).tolist()

    assert split([10, 20, 30], [1, 1, 1], 12) == [2, 4, 6]
    assert split([10, 10], [1, 3], 8) == [2, 6]
    assert split([10, 10], [1, 9], 15) == [5, 10]  # capped, and the rest flows to the other
    assert split([10, 10], [0, 1], 5) == [1, 4]  # no segment goes blind
    assert split([10, 10], [0, 1], 5, floor=0) == [0, 5]
    assert split([10, 10], [0, 0], 5) == [3, 2]  # ties to the earlier
    assert split([4, 4, 4], [1, 1, 1], 4) == [2, 1, 1]
    assert split([3, 11, 2, 6], [7, 4, 5, 7], 17) == [3, 7, 1, 6]  # 8 left after two caps: 6.52 and 1.48
    assert split([4, 4, 4], [1, 3, 2], 2) == [0, 1, 1]  # fewer tokens than segments: the most relevant
    assert split([4, 4, 4], [1, 1, 1], 2) == [1, 1, 0]
    assert split([9, 9, 9], [1, 1, 7], 6, floor=3) == [2, 2, 2]  # all lower their floor equally
    assert split([1, 0, 2], [1, 1, 1], 99) == [1, 0, 2]
    assert split([], [], 3) == []
    none_left = torch.tensor([0, 5, 5])
    assert allocate(torch.tensor([9, 1, 2]), torch.ones(3), 1, capacity=none_left).tolist() == [0, 0, 1]


def test_weights_apply_once_when_sizes_stay_those_at_first() -> None:
    sizes, weights = torch.tensor([1000, 1000]), torch.tensor([1.0, 2.0])
    live = sizes
    for keep in (900, 600, 300):
        live = allocate(sizes, weights, keep, capacity=live)
    assert live.tolist() == [100, 200]
    compounded = sizes
    for keep in (900, 600, 300):
        compounded = allocate(compounded, weights, keep)
    assert compounded[0] < 50


def test_shares_refuse_what_makes_no_sense() -> None:
    sizes = torch.tensor([3, 3])
    for weight in (-1.0, math.nan, math.inf):
        with pytest.raises(ValueError, match="weights"):
            allocate(sizes, torch.tensor([1.0, weight]), 2)
    with pytest.raises(ValueError, match="keep"):
        allocate(sizes, torch.ones(2), -1)
    with pytest.raises(ValueError, match="floor"):
        allocate(sizes, torch.ones(2), 1, floor=-1)


@given(st.lists(st.tuples(st.integers(0, 4), st.floats(0, 1, width=32)), min_size=1), st.data())
def test_the_best_of_each_group(tokens: list[tuple[int, float]], data: st.DataObject) -> None:
    group, scores = torch.tensor([g for g, _ in tokens]), torch.tensor([s for _, s in tokens])
    sizes = group.bincount()
    share = torch.tensor([data.draw(st.integers(0, int(size))) for size in sizes])
    expected = [
        number
        for g in range(len(sizes))
        for number in sorted((group == g).nonzero()[:, 0].tolist(), key=lambda i: -tokens[i][1])[: share[g]]
    ]
    assert top_by_group(scores, group, sizes, share).tolist() == sorted(expected)
