"""Padding is found in masks of every form, whatever padding itself attends to."""

from __future__ import annotations

import pytest
import torch

from adatp.pruning.padding import is_packed, real_past, real_tokens
from masks import LOWEST, PADS, per_query

ROWS = {
    "left": ["....abcdef", ".abcdefghi", "abcdefghij"],
    "right": ["abcdef....", "abcdefgh..", "abcdefghij"],
    "of two turns": ["..abcd..ef", "abc..defgh", "abcdefghij"],
    "alone": [".....abcde"],
    "none": ["abcdefghij"],
}


@pytest.mark.parametrize("hidden", [None, LOWEST, -torch.inf], ids=["boolean", "lowest", "infinite"])
@pytest.mark.parametrize("past", [0, 5])
@pytest.mark.parametrize("pads", PADS)
@pytest.mark.parametrize("side", ROWS)
def test_a_mask_per_query_says_what_a_mask_of_padding_says(
    side: str, pads: str, past: int, hidden: float | None
) -> None:
    real = torch.tensor([[letter != "." for letter in row] for row in ROWS[side]])
    ids = 17 * real[:, past:].long()
    mask = per_query(real, pads, past, hidden)
    wanted = real_tokens(real.long(), ids, past)
    assert torch.equal(wanted, real[:, past:])
    found = real_tokens(mask, ids, past)
    assert torch.equal(found, wanted)
    assert torch.equal(real_past(mask, past, *ids.shape), real_past(real.long(), past, *ids.shape))
    padded = torch.nn.functional.pad(mask, (0, 7), value=0 if hidden is None else hidden)  # a static cache's
    assert torch.equal(real_tokens(padded, ids, past), wanted)


def test_masks_that_hide_more_than_padding_hide_no_token() -> None:
    """Two sequences side by side, a prefix whose tokens all see each other, and images that do."""
    length = 8
    ids, every = torch.zeros(1, length, dtype=torch.int64), torch.ones(1, length, dtype=torch.bool)
    causal = torch.ones(length, length, dtype=torch.bool).tril()
    side_by_side = causal.clone()
    side_by_side[3:, :3] = False
    prefix, image = causal.clone(), causal.clone()
    prefix[:5, :5] = image[2:5, 2:5] = True
    for mask in (causal, side_by_side, prefix, image, torch.ones_like(causal)):
        assert torch.equal(real_tokens(mask[None, None], ids, 0), every)


def test_biases_hide_nothing() -> None:
    """A bias for near tokens, or for a sink, is no mask."""
    length = past = 6
    ids = torch.zeros(1, length, dtype=torch.int64)
    near = -torch.arange(2 * length).flip(0).float().expand(length, -1)
    mask = near.masked_fill(~torch.ones(length, 2 * length, dtype=torch.bool).tril(past), LOWEST)[None, None]
    assert real_tokens(mask, ids, past).all()
    assert real_past(mask, past, 1, length).all()


@pytest.mark.parametrize(
    ("positions", "expected"),
    [
        ([[0, 1, 2, 3, 4]], False),
        ([[0, 1, 2, 0, 1]], True),
        ([[1, 1, 0, 1, 2]], False),  # padding first
        ([[0, 1, 2, 1, 2]], False),  # sound beside frames
        ([[7, 8, 9, 10, 11]], False),  # goes on after a cached past
        ([[[0, 1, 1, 2, 3]], [[0, 1, 1, 2, 3]], [[0, 2, 1, 2, 3]]], False),  # time, height, width
        ([[[0, 1, 2, 0, 1]], [[0, 1, 2, 0, 1]], [[0, 1, 2, 0, 1]]], True),
        ([[3, 4]], False),  # not of these tokens
    ],
)
def test_positions_that_begin_anew_show_several_prompts_in_a_row(positions: list, expected: bool) -> None:
    real = (
        torch.tensor([[False, False, True, True, True]])
        if positions[0][:2] == [1, 1]
        else torch.ones(1, 5).bool()
    )
    assert is_packed({"position_ids": torch.tensor(positions)}, real) is expected


def test_lengths_of_sequences_show_several_prompts_in_a_row() -> None:
    assert is_packed({"cu_seq_lens_q": torch.tensor([0, 2, 5])}, torch.ones(1, 5).bool())
    assert not is_packed({}, torch.ones(1, 5).bool())


def test_positions_may_be_those_of_all_rows_and_no_integers() -> None:
    real = torch.tensor([[True] * 5, [False, True, True, True, True]])
    assert not is_packed({"position_ids": torch.arange(5.0)[None]}, real)
    assert is_packed({"position_ids": torch.tensor([[0.0, 1.0, 2.0, 0.0, 1.0]])}, real)
