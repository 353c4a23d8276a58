"""Picking the tokens of a frame that cover it, against the same rule by plain loops."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional as F

from adatp.adatp_steps import coverage
from adatp.adatp_steps.coverage import pick


def by_loops(frame: Tensor, there: Tensor) -> list[int]:
    """The tokens (P, d) of a frame that are there, in the order of picking."""
    unit, left = F.normalize(frame, dim=-1), [p for p in range(len(frame)) if there[p]]
    length, picked = frame.norm(dim=-1).tolist(), list[int]()

    def gain(p: int) -> float:
        others = picked or [other for other in left if other != p]
        return length[p] * min([1 - float(unit[p] @ unit[other]) for other in others], default=2.0)

    while left:
        best = max(left, key=gain)
        picked.append(best)
        left.remove(best)
    return picked


@given(st.integers(0, 10_000), st.integers(1, 3), st.integers(1, 8))
def test_by_plain_loops(seed: int, frames: int, places: int) -> None:
    random = torch.Generator().manual_seed(seed)
    tokens = torch.randn(frames, places, 5, generator=random)
    there = torch.rand(frames, places, generator=random) > 0.2
    rank, gain = pick(tokens, there, places)
    for t in range(frames):
        expected = by_loops(tokens[t], there[t])
        assert rank[t].argsort().tolist()[: len(expected)] == expected
        assert sorted(rank[t].tolist()) == list(range(places))
        in_order = gain[t][rank[t].argsort()]
        assert (in_order.diff() <= 0).all()
        assert not in_order[len(expected) :].any()


def test_a_surface_is_covered_by_one_token() -> None:
    surface, thing, other = torch.eye(4)[:3]
    tokens = torch.stack([surface, surface, surface, 3 * thing, surface, 2 * other])[None]
    rank, _ = pick(tokens, torch.ones(1, 6, dtype=torch.bool), 6)
    assert rank[0].argsort(stable=True).tolist()[:3] == [3, 5, 0]


def test_fewer_steps_pick_the_same_first() -> None:
    tokens = torch.randn(4, 9, 6, generator=torch.Generator().manual_seed(0))
    there = torch.ones(4, 9, dtype=torch.bool)
    every, gain = pick(tokens, there, 9)
    some, gain_of_some = pick(tokens, there, 3)
    assert torch.equal(some, every.clamp(max=3))
    assert torch.equal(gain_of_some, gain.where(every < 3, 0))


def test_parts_are_picked_like_the_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    tokens = torch.randn(7, 9, 6, generator=torch.Generator().manual_seed(1))
    there = torch.ones(7, 9, dtype=torch.bool)
    expected = pick(tokens, there, 9)[0]
    monkeypatch.setattr(coverage, "_PART", 200)
    assert torch.equal(pick(tokens, there, 9)[0], expected)


def test_what_is_not_a_number_is_no_error() -> None:
    tokens = torch.randn(1, 5, 6, generator=torch.Generator().manual_seed(2))
    tokens[0, 3] = torch.nan
    rank, _ = pick(tokens, torch.ones(1, 5, dtype=torch.bool), 5)
    assert sorted(rank[0].tolist()) == list(range(5))
