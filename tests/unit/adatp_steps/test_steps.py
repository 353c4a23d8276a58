import math
import random
from collections import defaultdict
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from adatp.adatp_steps.debias import distinct_positions, segment_weights, select, select_overall
from adatp.adatp_steps.novelty import novelty, representatives
from adatp.adatp_steps.relevance import (
    attention_relevance,
    cosine_relevance,
    embedding_relevance,
    pool_by_segment,
)
from adatp.adatp_steps.segment import segment_frames

unhurried = settings(deadline=None)


# --- segments ---------------------------------------------------------------------------------------------


def test_neighbours_above_the_threshold_are_joined_and_a_returning_scene_is_new() -> None:
    angles = torch.tensor([0.0, 0.1, 0.2, 1.5, 1.6, 0.0])
    features = torch.stack([angles.cos(), angles.sin()], dim=1)
    assert segment_frames(features, 0.95).tolist() == [0, 0, 0, 1, 1, 2]
    assert segment_frames(features, -1.0).tolist() == [0] * 6
    assert segment_frames(features, 1.1).tolist() == [0, 1, 2, 3, 4, 5]


def test_the_threshold_itself_joins() -> None:
    features = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    assert segment_frames(features, 0.0).tolist() == [0, 0]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_identical_frames_are_one_segment_blank_ones_too(dtype: torch.dtype) -> None:
    frame = torch.randn(7, generator=torch.Generator().manual_seed(0)).to(dtype)
    assert segment_frames(frame.expand(5, 7), 1.0).tolist() == [0] * 5
    assert segment_frames(torch.zeros(5, 7, dtype=dtype), 0.95).tolist() == [0] * 5


def test_half_precision_features_are_compared_in_full() -> None:
    features = torch.tensor([[1.0, 0.0], [3.0, 1.0]], dtype=torch.bfloat16)
    assert segment_frames(features, 0.949).tolist() == [0, 1]  # the cosine is 0.9487, in bfloat16 0.9492


def test_blank_and_broken_frames_are_apart_from_others() -> None:
    features = torch.ones(5, 3)
    features[1] = 0
    features[3] = math.nan
    assert segment_frames(features, 0.5).tolist() == [0, 1, 2, 3, 4]


def test_no_and_one_frame() -> None:
    assert segment_frames(torch.ones(0, 3), 0.95).tolist() == []
    assert segment_frames(torch.ones(1, 3), 0.95).tolist() == [0]


@unhurried
@given(st.integers(0, 10_000), st.integers(1, 12), st.floats(-0.9, 0.9))
def test_segments_ignore_the_length_of_each_feature(seed: int, frames: int, tau_s: float) -> None:
    g = torch.Generator().manual_seed(seed)
    features = torch.randn(frames, 4, generator=g)
    length = 2.0 ** torch.randint(-8, 8, (frames, 1), generator=g)  # a power of two: no rounding
    segment = segment_frames(features, tau_s)
    assert segment.tolist() == segment_frames(features * length, tau_s).tolist()
    assert set(segment.diff().tolist()) <= {0, 1}


# --- relevance --------------------------------------------------------------------------------------------


def test_cosine_relevance_is_the_cosine() -> None:
    frames = torch.tensor([[2.0, 0.0], [0.0, 1.0], [-1.0, 0.0], [0.0, 0.0]])
    assert cosine_relevance(torch.tensor([3.0, 0.0]), frames).tolist() == pytest.approx(
        [1, 0, -1, 0], abs=1e-5
    )


def planted(frames: int = 6, tokens: int = 49, d: int = 64) -> tuple[Tensor, Tensor, Tensor]:
    """Noise tokens far from the words; one token of frame 4 shows what the second word means."""
    g = torch.Generator().manual_seed(0)
    words = torch.randn(3, d, generator=g)
    visual = torch.randn(frames * tokens, d, generator=g)
    frame = torch.arange(frames).repeat_interleave(tokens)
    visual[4 * tokens + 17] = 2 * words[1]
    return words, visual, frame


def test_embedding_relevance_finds_one_token_in_a_frame_whatever_the_modality_gap() -> None:
    words, visual, frame = planted()
    found = embedding_relevance(words, visual, frame, 6)
    assert found.shape == (6,)
    assert found.argmax() == 4
    gap = 50 * torch.randn(2, words.shape[1], generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(
        embedding_relevance(words + gap[0], visual + gap[1], frame, 6), found, atol=1e-4, rtol=0
    )


def test_embedding_relevance_ignores_the_order_of_tokens_and_of_words() -> None:
    words, visual, frame = planted()
    order = torch.randperm(len(frame), generator=torch.Generator().manual_seed(2))
    torch.testing.assert_close(
        embedding_relevance(words.flip(0), visual[order], frame[order], 6),
        embedding_relevance(words, visual, frame, 6),
    )


def test_embedding_relevance_with_one_word_no_word_and_a_frame_without_tokens() -> None:
    words, visual, frame = planted()
    assert embedding_relevance(words[1:2], visual, frame, 6).argmax() == 4
    assert embedding_relevance(words[:0], visual, frame, 6).tolist() == [0] * 6
    there = frame != 2
    assert embedding_relevance(words, visual[there], frame[there], 6)[2] == 0
    assert embedding_relevance(words, visual[:0], frame[:0], 6).tolist() == [0] * 6


def test_embedding_relevance_of_a_frame_that_is_the_contrary() -> None:
    visual = torch.tensor([[1.0, 0.0], [-1.0, 0.0]])
    assert embedding_relevance(visual[:1], visual, torch.tensor([0, 1]), 2).tolist() == [1, -1]


def test_attention_relevance_is_the_mean_over_a_frames_tokens() -> None:
    mass, frame = torch.tensor([1.0, 3.0, 5.0, 7.0]), torch.tensor([0, 0, 2, 0])
    assert attention_relevance(mass, frame, 4).tolist() == pytest.approx([11 / 3, 0, 5, 0], rel=1e-5)


def test_pooling_by_segment() -> None:
    relevance, segment = torch.tensor([1.0, 2.0, 6.0, -1.0]), torch.tensor([0, 1, 1, 2])
    assert pool_by_segment(relevance, segment).tolist() == [1, 4, -1]
    assert pool_by_segment(relevance, segment, weight=torch.ones(len(segment))).tolist() == [1, 4, -1]
    weight = torch.where(segment == 1, relevance / 8, 0)
    assert pool_by_segment(relevance, segment, weight=weight).tolist() == [
        0,
        pytest.approx(float((relevance**2)[segment == 1].sum() / relevance[segment == 1].sum()), rel=1e-5),
        0,
    ]
    assert pool_by_segment(relevance[:0], segment[:0]).shape == (0,)


# --- global debiasing -------------------------------------------------------------------------------------


def test_weights_are_the_exponential_of_the_standardised_relevance() -> None:
    weights = segment_weights(torch.tensor([1.0, 2.0, 3.0]), 0.5, torch.ones(3))
    r_hat = math.sqrt(3 / 2)
    assert weights.tolist() == pytest.approx([math.exp(-2 * r_hat), 1, math.exp(2 * r_hat)], rel=1e-5)


@pytest.mark.parametrize(
    "relevance",
    [
        None,
        torch.full((4,), 0.1),
        torch.zeros(4),
        torch.tensor([0.1, 0.2, math.nan, 0.3]),
        0.3 + torch.arange(4) * 1e-8,
    ],
)
def test_nothing_to_tell_segments_apart_weighs_all_one(relevance: Tensor | None) -> None:
    assert segment_weights(relevance, 0.1, torch.tensor([3, 1, 1, 2])).tolist() == [1, 1, 1, 1]


def test_weights_at_the_ends_of_the_temperature() -> None:
    relevance, sizes = torch.tensor([-1.0, 0.0, 4.0]), torch.ones(3)
    assert segment_weights(relevance, math.inf, sizes).tolist() == [1, 1, 1]
    cold = segment_weights(relevance, 1e-30, sizes)
    assert cold.isfinite().all()
    assert (cold > 0).all()
    for tau_r in (0.0, -1.0, math.nan):
        with pytest.raises(ValueError, match="tau_r"):
            segment_weights(relevance, tau_r, sizes)


def test_weights_ignore_scale_and_shift_and_how_a_segment_is_cut() -> None:
    relevance, sizes = torch.tensor([0.1, 0.5, 0.2]), torch.tensor([3, 1, 4])
    weights = segment_weights(relevance, 0.7, sizes)
    torch.testing.assert_close(segment_weights(8 * relevance - 3, 0.7, sizes), weights, rtol=1e-4, atol=0)
    cut = segment_weights(relevance[[0, 1, 2, 2]], 0.7, torch.tensor([3, 1, 1, 3]))
    torch.testing.assert_close(cut, weights[[0, 1, 2, 2]])


# --- local debiasing --------------------------------------------------------------------------------------

Tokens = tuple[Tensor, Tensor, Tensor]
odd = [1e-9, 0.3, -0.0, -1.5, -700.0, math.nan, math.inf, -math.inf]
score = st.one_of(st.integers(0, 3).map(float), st.sampled_from(odd))


def from_best(score: float) -> tuple[bool, float]:
    """Sorts the highest score first, NaN as the lowest."""
    return (True, 0.0) if math.isnan(score) else (False, -score)


@st.composite
def tokens(draw: st.DrawFn, scores: st.SearchStrategy[float] = score) -> Tokens:
    """Ragged: segments and positions in any order, often repeated, often tied."""
    rows = draw(st.lists(st.tuples(scores, st.integers(0, 3), st.integers(0, 4)), max_size=40))
    return (
        torch.tensor([r[0] for r in rows], dtype=torch.float32),
        torch.tensor([r[1] for r in rows], dtype=torch.int64),
        torch.tensor([r[2] for r in rows], dtype=torch.int64),
    )


def plain_rank(scores: Tensor, segment: Tensor, position: Tensor) -> list[int]:
    """Rank of each token at its position in its segment, best first; of equal ones the earlier."""
    groups = defaultdict(list)
    for i, (s, seg, pos) in enumerate(zip(scores.tolist(), segment.tolist(), position.tolist(), strict=True)):
        groups[seg, pos].append((from_best(s), i))
    rank = [0] * len(scores)
    for group in groups.values():
        for r, (_, i) in enumerate(sorted(group)):
            rank[i] = r
    return rank


@unhurried
@given(tokens())
def test_distinct_positions_against_plain_python(case: Tokens) -> None:
    _, segment, position = case
    observed = set(zip(segment.tolist(), position.tolist(), strict=True))
    expected = [sum(s == wanted for s, _ in observed) for wanted in range(5)]
    assert distinct_positions(segment, position, 5).tolist() == expected


@unhurried
@given(tokens(), st.data(), st.booleans())
def test_select_against_plain_python(case: Tokens, data: st.DataObject, local: bool) -> None:
    scores, segment, position = case
    live = torch.bincount(segment, minlength=4)
    share = torch.tensor([data.draw(st.integers(0, int(n))) for n in live])
    rank = plain_rank(*case) if local else [0] * len(scores)
    expected = []
    for s in range(4):
        members = [i for i in range(len(scores)) if segment[i] == s]
        members.sort(key=lambda i: (rank[i], from_best(float(scores[i])), i))
        expected += members[: int(share[s])]
    chosen = select(scores, segment, position, live, share, local)
    assert chosen.dtype == torch.int64
    assert chosen.tolist() == sorted(expected)


@unhurried
@given(tokens(), st.data())
def test_up_to_the_distinct_positions_no_position_is_kept_twice(case: Tokens, data: st.DataObject) -> None:
    scores, segment, position = case
    distinct, live = distinct_positions(segment, position, 4), torch.bincount(segment, minlength=4)
    share = torch.tensor([data.draw(st.integers(0, int(n))) for n in distinct])
    chosen = select(scores, segment, position, live, share, local=True)
    kept = list(zip(segment[chosen].tolist(), position[chosen].tolist(), strict=True))
    assert len(set(kept)) == len(kept) == share.sum()


@unhurried
@given(tokens(), st.randoms(use_true_random=False), st.booleans())
def test_without_ties_the_order_of_the_input_does_not_matter(
    case: Tokens, shuffler: random.Random, local: bool
) -> None:
    _, segment, position = case
    n = len(segment)
    scores = torch.tensor(shuffler.sample(range(n), n), dtype=torch.float32)
    live = torch.bincount(segment, minlength=4)
    share = live // 2
    order = torch.tensor(shuffler.sample(range(n), n), dtype=torch.int64)
    chosen = select(scores, segment, position, live, share, local)
    shuffled = select(scores[order], segment[order], position[order], live, share, local)
    assert sorted(order[shuffled].tolist()) == chosen.tolist()


def test_a_position_that_draws_attention_in_every_frame_is_kept_once() -> None:
    frames, grid = 4, 9
    position = torch.arange(grid).repeat(frames)
    scores = torch.rand(frames * grid, generator=torch.Generator().manual_seed(0))
    scores[position == 7] += 5
    rest = position, torch.tensor([len(position)]), torch.tensor([grid])
    segment = torch.zeros_like(position)
    assert position[select(scores, segment, *rest, local=True)].sort().values.tolist() == list(range(grid))
    assert (position[select(scores, segment, *rest, local=False)] == 7).sum() == frames


@unhurried
@given(tokens(), st.data(), st.booleans())
def test_one_share_for_all_segments(case: Tokens, data: st.DataObject, local: bool) -> None:
    scores, segment, position = case
    keep = data.draw(st.integers(0, len(scores)))
    rank = plain_rank(*case) if local else [0] * len(scores)
    best = sorted(range(len(scores)), key=lambda i: (rank[i], from_best(float(scores[i])), i))
    assert select_overall(scores, segment, position, keep, local).tolist() == sorted(best[:keep])


@pytest.mark.parametrize("last", [2**16 - 1, 2**16, 2**31 - 1])
def test_segments_and_positions_of_any_number(last: int) -> None:
    segment, position = torch.tensor([0, last, last, last]), torch.tensor([last, last, last, 0])
    counts = torch.tensor([1, 3]), torch.tensor([1, 2])
    scores = torch.tensor([0.1, 0.2, math.inf, 0.1])
    assert select(scores, segment, position, *counts, local=True).tolist() == [0, 2, 3]
    assert select(scores, segment, position, *counts, local=False).tolist() == [0, 1, 2]


@pytest.mark.parametrize("bits", [8, 15, 16, 17, 24, 31])
def test_no_segment_and_position_are_taken_for_others(bits: int) -> None:
    segment, position = torch.tensor([0, 1, 1, 0]), torch.tensor([2**bits, 0, 2**bits, 0])
    assert distinct_positions(segment, position, 2).tolist() == [2, 2]


def test_a_negative_zero_is_a_zero() -> None:
    zeros, scores = torch.zeros(3, dtype=torch.int64), torch.tensor([0.0, -0.0, 0.5])
    counts = torch.tensor([3]), torch.tensor([2])
    for local in (True, False):
        assert select(scores, zeros, zeros, *counts, local).tolist() == [0, 2]
        assert select_overall(scores, zeros, zeros, 1, local).tolist() == [2]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_select_takes_scores_of_any_floating_type(dtype: torch.dtype) -> None:
    scores = torch.tensor([0.5, math.nan, 0.25, 1.0], dtype=dtype)
    zeros = torch.zeros(4, dtype=torch.int64)
    counts = torch.tensor([4]), torch.tensor([3])
    assert select(scores, zeros, torch.arange(4), *counts, local=True).tolist() == [0, 2, 3]


# --- early stage ------------------------------------------------------------------------------------------


def everywhere(tokens: Tensor) -> Tensor:
    return torch.ones(tokens.shape[:2], dtype=torch.bool)


@st.composite
def segments_of_tokens(draw: st.DrawFn) -> Tensor:
    """(T, P, 4) with many near-duplicates."""
    frames, places, seed = draw(st.integers(1, 7)), draw(st.integers(1, 5)), draw(st.integers(0, 10**6))
    generator = torch.Generator().manual_seed(seed)
    kinds = torch.randn(3, 4, generator=generator)
    which = torch.randint(0, 3, (frames, places), generator=generator)
    noise = torch.randn(frames, places, 4, generator=generator)
    return kinds[which] + draw(st.sampled_from([0.0, 0.05, 1.0])) * noise


@unhurried
@given(
    segments_of_tokens(),
    st.sampled_from([-1.0, 0.5, 0.9, 0.99]),
    st.sampled_from([0.3, 1.0]),
    st.integers(0, 99),
)
def test_novelty_by_plain_loops(tokens: Tensor, tau_d: float, full: float, seed: int) -> None:
    there = torch.rand(tokens.shape[:2], generator=torch.Generator().manual_seed(seed)) < full
    tokens = tokens * there[..., None]
    new, distinct = novelty(tokens, tau_d, there)
    assert not distinct[~there].any()
    unit = torch.nn.functional.normalize(tokens, dim=-1)
    mean = torch.nn.functional.normalize(unit.sum((0, 1)), dim=-1)
    for p in range(tokens.shape[1]):
        noted: list[Tensor] = []
        for t in there[:, p].nonzero().flatten().tolist():
            closest = max([float(unit[t, p] @ other) for other in noted], default=-2.0)
            if abs(closest - tau_d) < 1e-5:
                return  # rounding may decide either way
            assert bool(distinct[t, p]) == (closest < tau_d)
            assert float(new[t, p]) == pytest.approx(1 - max(closest, float(unit[t, p] @ mean)), abs=1e-5)
            if closest < tau_d:
                noted.append(unit[t, p])


@unhurried
@given(segments_of_tokens(), st.randoms())
def test_novelty_does_not_depend_on_the_order_of_positions(tokens: Tensor, shuffle: random.Random) -> None:
    places = list(range(tokens.shape[1]))
    shuffle.shuffle(places)
    new, distinct = novelty(tokens, 0.9, everywhere(tokens))
    again, too = novelty(tokens[:, places], 0.9, everywhere(tokens))
    assert torch.allclose(again, new[:, places], atol=1e-5)
    assert torch.equal(too, distinct[:, places])


@unhurried
@given(segments_of_tokens(), st.integers(0, 99))
def test_representatives_of_segments_are_those_of_each_by_itself(tokens: Tensor, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    there = torch.rand(tokens.shape[:2], generator=generator) < 0.8
    tokens = tokens * there[..., None]
    segment = (torch.rand(len(tokens), generator=generator) < 0.4).cumsum(0)
    segment = segment - segment[0]
    lengths = segment.bincount().tolist()
    parts = zip(tokens.split(lengths), there.split(lengths), strict=True)
    alone = [novelty(part, 0.9, present)[1] for part, present in parts]
    assert torch.equal(representatives(tokens, 0.9, there, segment), torch.cat(alone))


def test_what_flashes_for_one_frame_is_the_newest_and_what_returns_is_not() -> None:
    generator = torch.Generator().manual_seed(0)
    still = torch.tensor([1.0, 0, 0, 0]) + 0.05 * torch.randn(6, 4, generator=generator)
    tokens = still.repeat(8, 1, 1)
    tokens[3, 2] = torch.tensor([0.0, 1, 0, 0])
    new, distinct = novelty(tokens, 0.9, everywhere(tokens))
    assert divmod(int(new.argmax()), 6) == (3, 2)
    assert distinct.sum() == 6 + 1  # the background hidden by the flash was there before it
    assert (new[1:].flatten().sort().values[:-1] < 1e-5).all()


def test_a_slow_drift_gets_a_representative_now_and_then() -> None:
    angle = torch.linspace(0, 1.5, 31)
    drift = torch.stack([angle.cos(), angle.sin()], -1)[:, None]
    _, distinct = novelty(drift, 0.9, everywhere(drift))  # cos 0.46 = 0.896
    assert distinct.flatten().nonzero().flatten().tolist() == [0, 10, 20, 30]


def test_novelty_in_half_precision_and_on_one_frame() -> None:
    tokens = torch.randn(1, 4, 8, generator=torch.Generator().manual_seed(0)).bfloat16()
    new, distinct = novelty(tokens, 0.9, everywhere(tokens))
    assert new.dtype == torch.float32
    assert bool(distinct.all())


class Largest(TorchDispatchMode):
    """Notes how many numbers the largest tensor has that is made."""

    numbers = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = func(*args, **(kwargs or {}))
        if isinstance(made, Tensor):
            self.numbers = max(self.numbers, made.numel())
        return made


def test_memory_for_a_long_scene_does_not_go_with_its_square(monkeypatch: pytest.MonkeyPatch) -> None:
    """And what is found in blocks of frames is what is found at once."""
    generator = torch.Generator().manual_seed(0)
    tokens = torch.randn(3, 16, 4, generator=generator)[torch.randint(0, 3, (200,), generator=generator)]
    tokens += 0.2 * torch.randn(tokens.shape, generator=generator)
    there = torch.rand(200, 16, generator=generator) < 0.9
    tokens, segment = tokens * there[..., None], torch.arange(200) // 80
    expected = novelty(tokens, 0.9, there)
    by_segment = representatives(tokens, 0.9, there, segment)
    monkeypatch.setattr("adatp.adatp_steps.novelty._PART", 1 << 14)
    with Largest() as largest:
        found = novelty(tokens, 0.9, there)
        assert torch.equal(representatives(tokens, 0.9, there, segment), by_segment)
    assert largest.numbers <= 1 << 14 < 200 * 200
    assert torch.allclose(found[0], expected[0], atol=1e-6)
    assert torch.equal(found[1], expected[1])
    assert 16 < expected[1].sum() < there.sum()


def test_long_videos_are_looked_at_part_by_part(monkeypatch: pytest.MonkeyPatch) -> None:
    generator = torch.Generator().manual_seed(0)
    tokens = torch.randn(6, 7, 5, generator=generator).round(decimals=1)
    words, frame = torch.randn(3, 5, generator=generator), torch.arange(6).repeat_interleave(7)
    new, distinct = novelty(tokens, 0.5, everywhere(tokens))
    relevance = embedding_relevance(words, tokens.flatten(0, 1), frame, 6)
    monkeypatch.setattr("adatp.adatp_steps.novelty._PART", 2 * 6 * 5)  # two positions, the last by itself
    monkeypatch.setattr("adatp.adatp_steps.relevance._PART", 10)  # parts end within frames
    again, too = novelty(tokens, 0.5, everywhere(tokens))
    assert torch.allclose(again, new, atol=1e-5)
    assert torch.equal(too, distinct)
    assert torch.allclose(embedding_relevance(words, tokens.flatten(0, 1), frame, 6), relevance, atol=1e-5)
