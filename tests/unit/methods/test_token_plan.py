"""What is kept of the visual tokens, as positions of the prompt, against plain lists."""

from __future__ import annotations

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from adatp.layout import build_layouts
from adatp.methods.token_plan import LiveTokens


@given(st.data(), st.lists(st.integers(1, 9), min_size=2, max_size=6), st.booleans())
@settings(deadline=None)
def test_text_stays_and_merged_tokens_find_their_owner(
    data: st.DataObject, runs: list[int], merge: bool
) -> None:
    ids = torch.tensor([[token for k, run in enumerate(runs) for token in [9 if k % 2 else 1] * run]])
    visual = (ids[0] == 9).nonzero()[:, 0].tolist()
    (layout,) = build_layouts(ids, ids > 0, [(len(visual), 1, 1)], video_token_id=9)
    live, alive, left = LiveTokens(layout), layout.real, visual
    for _ in range(3):
        kept = sorted(data.draw(st.sets(st.sampled_from(range(len(left))), min_size=1)))
        into = [data.draw(st.integers(-1, len(kept) - 1)) for _ in left]
        for number, row in enumerate(kept):
            into[row] = number
        selection = live.keep(alive, torch.tensor(kept), torch.tensor(into) if merge else None)
        was, left = left, [left[row] for row in kept]
        expected = [at for at in range(ids.shape[1]) if at in left or ids[0, at] != 9]
        assert selection.kept.tolist() == expected
        assert [visual[number] for number in live.token.tolist()] == left
        assert [expected[row] for row in live.row.tolist()] == left
        if merge:
            assert selection.into is not None
            owners = dict(zip(was, into, strict=True))
            for at, number in zip(alive.tolist(), selection.into.tolist(), strict=True):
                owner = owners.get(at)
                assert number == (
                    expected.index(at) if owner is None else -1 if owner < 0 else expected.index(left[owner])
                )
        else:
            assert selection.into is None
        alive = selection.kept
