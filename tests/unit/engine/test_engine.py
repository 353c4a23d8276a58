"""The engine's own arithmetic, against plain loops."""

from __future__ import annotations

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from adatp.engine.masks import remap_mask
from adatp.engine.rows import FILLER, merge_rows, scatter_rows, take_rows
from adatp.engine.slots import CacheSlots
from adatp.plan import Selection

PAST, LENGTH, FIXED = 4, 6, 15


@st.composite
def rows(draw: st.DrawFn, length: int, ragged: bool) -> Tensor:
    """(2, n) ascending positions below ``length``, shorter rows filled on the left."""
    kept = [sorted(draw(st.sets(st.integers(0, length - 1), min_size=1))) for _ in range(2)]
    if not ragged:
        kept = [row[-min(map(len, kept)) :] for row in kept]
    longest = max(map(len, kept))
    return torch.tensor([[FILLER] * (longest - len(row)) + row for row in kept])


@settings(max_examples=60)
@given(st.data(), st.booleans(), st.booleans(), st.sampled_from(["none", "boolean", "additive"]))
def test_a_mask_is_remapped_to_the_layer(data: st.DataObject, ragged: bool, static: bool, kind: str) -> None:
    old = data.draw(rows(PAST, ragged))
    index = data.draw(rows(LENGTH, ragged))
    columns = torch.cat([old, index.where(index < 0, index + PAST)], 1)
    kept = CacheSlots(columns, PAST + LENGTH, ragged=bool((columns < 0).any()))
    width = FIXED if static else PAST + LENGTH
    allowed = torch.ones(LENGTH, width, dtype=torch.bool).tril(PAST).repeat(2, 1, 1, 1)
    if kind != "none":
        allowed = allowed & torch.tensor(data.draw(st.lists(st.booleans(), min_size=width, max_size=width)))
    lowest = torch.finfo(torch.float32).min
    mask = {
        "none": None,
        "boolean": allowed,
        "additive": torch.zeros(allowed.shape).masked_fill(~allowed, lowest),
    }[kind]
    remapped = remap_mask(mask, kept, index, PAST, LENGTH, 0, FIXED if static else None, flash=False)
    if kind == "none" and not kept.ragged:
        assert remapped is None
        return
    assert remapped is not None
    visible = remapped if remapped.dtype == torch.bool else remapped == 0
    assert visible.shape == (2, 1, index.shape[1], FIXED if static else columns.shape[1])
    for b in range(2):
        for i, query in enumerate(index[b].tolist()):
            if query == FILLER:  # nobody looks at it, but a softmax over nothing is no number
                assert visible[b, 0, i, old.shape[1] + i]
                continue
            for j in range(visible.shape[3]):
                key = int(columns[b, j]) if j < columns.shape[1] else FILLER
                assert bool(visible[b, 0, i, j]) == (key != FILLER and bool(allowed[b, 0, query, key]))


@given(st.data())
def test_a_padding_mask_is_remapped_to_the_layer(data: st.DataObject) -> None:
    index = data.draw(rows(LENGTH, True))
    kept = CacheSlots(index, LENGTH, ragged=bool((index < 0).any()))
    padding = torch.tensor(data.draw(st.lists(st.booleans(), min_size=2 * LENGTH, max_size=2 * LENGTH)))
    for mask in (None, padding.view(2, LENGTH), padding.view(2, LENGTH).long()):
        remapped = remap_mask(mask, kept, index, 0, LENGTH, 0, None, flash=True)
        if mask is None and not kept.ragged:
            assert remapped is None
            continue
        assert remapped is not None
        for b in range(2):
            for j, key in enumerate(index[b].tolist()):
                assert bool(remapped[b, j]) == (key != FILLER and (mask is None or bool(mask[b, key])))


@given(st.data())
def test_scattering_undoes_taking(data: st.DataObject) -> None:
    index = data.draw(rows(LENGTH, True))
    states = torch.arange(1.0, 2 * LENGTH * 3 + 1).view(2, LENGTH, 3)
    back = scatter_rows(take_rows(states, index.clamp(min=0)), index, LENGTH)
    for b in range(2):
        for i in range(LENGTH):
            expected = states[b, i] if i in index[b].tolist() else torch.zeros(3)
            assert torch.equal(back[b, i], expected)


def test_what_a_cache_holds_grows_and_shrinks_with_the_sequence() -> None:
    kept = CacheSlots(torch.tensor([[0, 3, 5], [FILLER, 1, 5]]), 6, ragged=True)
    assert kept.count(6) == 3
    assert kept.count(8) == 5
    assert kept.until(8).tolist() == [[0, 3, 5, 6, 7], [FILLER, 1, 5, 6, 7]]
    assert kept.until(5).tolist() == [[0, 3], [FILLER, 1]]  # the last token was taken back


@given(st.lists(st.integers(-1, 3), max_size=12), st.sampled_from([torch.float32, torch.bfloat16]))
def test_merged_rows_are_means(others: list[int], dtype: torch.dtype) -> None:
    into = torch.tensor([*range(4), *others])[torch.randperm(4 + len(others))]
    states = torch.randn(len(into), 5, dtype=dtype)
    merged = merge_rows(states, Selection(torch.arange(4), into))
    assert merged.dtype == dtype
    for k in range(4):
        group = [states[i].double() for i in range(len(into)) if into[i] == k]
        mean = torch.stack(group).mean(0)
        assert (merged[k].double() - mean).abs().max() < (1e-6 if dtype == torch.float32 else 2e-2)
        if len(group) == 1:
            assert torch.equal(merged[k], states[into == k][0])
