"""Layouts by the placeholders of a prompt and the grids of its videos."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from adatp.layout import NO_CELL, LayoutError, build_layouts, videos_by_sample
from families import VIDEO


@given(
    st.lists(st.tuples(st.integers(1, 4), st.integers(1, 3), st.integers(1, 3)), min_size=1, max_size=3),
    st.sampled_from([0.3, 0.8, 1.0]),
    st.integers(0, 999),
)
def test_cells_without_tokens(grids: list[tuple[int, int, int]], full: float, seed: int) -> None:
    """Videos side by side, tokens of any cells left out, a newline after each frame that has tokens."""
    generator = torch.Generator().manual_seed(seed)
    ids, cells, expected, first_frame, first_cell = [1], [], [], 0, 0
    for number, (t, r, c) in enumerate(grids):
        mine = []
        for frame, row, column in np.ndindex(t, r, c):
            if torch.rand(1, generator=generator) < full:
                cell = (frame * r + row) * c + column
                place = len(ids) + len(mine)
                expected.append((place, first_cell + cell, number, first_frame + frame, row, column))
                mine.append(cell)
        cells.append(torch.tensor([*mine, NO_CELL]))
        ids += [9] * len(cells[-1]) + [2]
        first_frame, first_cell = first_frame + t, first_cell + t * r * c
    tokens = torch.tensor([ids])
    (layout,) = build_layouts(tokens, tokens > 0, grids, video_token_id=9, cells=cells)
    got = [layout.index, layout.cell, layout.video, layout.frame, layout.row, layout.column]
    assert torch.stack(got, 1).tolist() == [list(each) for each in expected]
    assert layout.cells == first_cell
    assert layout.complete == (len(expected) == first_cell)
    assert layout.tokens_by_frame.tolist() == [int((layout.frame == f).sum()) for f in range(first_frame)]
    assert len(layout.positions_by_frame) == first_frame
    spread = layout.by_cell(layout.index[:, None].expand(-1, 2))
    assert spread.shape == (first_cell, 2)
    for cell, place in zip(range(first_cell), spread.tolist(), strict=True):
        assert place == [next((at for at, other, *_ in expected if other == cell), 0)] * 2
    kept = layout.index[::2]
    for number, among in enumerate(layout.on_grid(kept)):
        assert among.shape == grids[number]
        own = layout.video[::2] == number
        first = sum(grid[0] for grid in grids[:number])
        where = torch.stack([layout.frame[::2] - first, layout.row[::2], layout.column[::2]], 1)[own]
        assert among.nonzero().tolist() == where.tolist()


@given(
    st.lists(st.lists(st.integers(1, 9), max_size=3), min_size=1, max_size=4).filter(any),
    st.integers(1, 3),
)
def test_videos_are_found_in_copied_prompts(prompts: list[list[int]], copies: int) -> None:
    sizes = [size for videos in prompts for size in videos]
    tokens = [sum(videos) for videos in prompts for _ in range(copies)]
    owned = videos_by_sample(tokens, sizes)
    numbers = iter(range(len(sizes)))
    expected = [[next(numbers) for _ in videos] for videos in prompts]
    assert owned == [videos for videos in expected for _ in range(copies)]


@pytest.mark.parametrize(
    ("tokens", "sizes"), [([8], [9]), ([0], [4]), ([3, 5], [4, 4]), ([8], [4]), ([4], [])]
)
def test_prompts_that_do_not_fit_their_videos(tokens: list[int], sizes: list[int]) -> None:
    with pytest.raises(LayoutError, match="placeholder tokens"):
        videos_by_sample(tokens, sizes)


def test_padding_on_the_right() -> None:
    ids = torch.tensor([[VIDEO, VIDEO, 5, 6, 0, 0]])
    (layout,) = build_layouts(ids, ids > 0, [(1, 1, 2)], video_token_id=VIDEO)
    assert layout.question.tolist() == [2, 3]
    assert layout.real.tolist() == [0, 1, 2, 3]
