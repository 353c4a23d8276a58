"""The peers of 2026: each rule against a plain re-statement of it."""

from __future__ import annotations

import math
from itertools import combinations, pairwise
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from adatp.adatp_steps.prior import time_of, without_place
from adatp.errors import SettingError
from adatp.methods import FastVID, FlashVID, HoliTom, ShaRP, VCast, VidCom2, VisionZip
from adatp.methods.flashvid import diverse, most_similar_before
from adatp.methods.holitom import static_windows
from adatp.methods.sharp import repeats
from adatp.methods.sinks import damped
from adatp.methods.token_plan import Cut, LiveTokens
from adatp.methods.vcast import curvature, standing_out
from adatp.methods.vidcom2 import likeness
from prefills import SHAPE, TINY, prefill_of, run_plan


def draws(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def log_scores(n: int) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.rand(n, dtype=torch.float64, generator=generator).log()


@pytest.mark.parametrize(
    ("method", "setting"),
    [
        (HoliTom, {"tau": 2}),
        (HoliTom, {"inner": 0}),
        (HoliTom, {"layer": 0}),
        (HoliTom, {"sink": -1}),
        (VisionZip, {"sink": math.nan}),
        (FastVID, {"sink": math.inf}),
        (FlashVID, {"alpha": 1.1}),
        (FlashVID, {"similarity": -2}),
        (FlashVID, {"layer": 0}),
        (VidCom2, {"temperature": 0}),
        (VidCom2, {"channels": 0}),
        (VCast, {"temperature": 0}),
        (ShaRP, {"duplicate": 2}),
        (ShaRP, {"layer": 0}),
    ],
    ids=str,
)
def test_parameters_that_make_no_sense(method: Any, setting: dict[str, Any]) -> None:
    with pytest.raises(SettingError):
        method(**setting)


# VidCom2.


def test_vidcom2_by_its_official_rule() -> None:
    frames, tokens, width = 5, 6, 10
    states = draws(frames * tokens, width)
    states[:tokens] += 3  # the first frame stands out
    numbers = list(torch.arange(frames * tokens).view(frames, tokens))
    kept = VidCom2(temperature=0.3).choose_video(numbers, states, 15)
    least = states.var(0, correction=0).argsort()[: width // 2]
    units = torch.nn.functional.normalize(states[:, least], dim=-1).view(frames, tokens, -1)

    def gaussians(centre: Tensor) -> Tensor:
        distance = ((units - centre) ** 2).sum(-1)
        return sum(torch.exp(-distance / (2 * 2.0**k)) for k in range(-3, 2))  # type: ignore[return-value]

    video, frame = gaussians(units.mean((0, 1))), gaussians(units.mean(1, keepdim=True))
    scales = 1 + torch.softmax(-video.mean(1) / 0.3, 0) - 1 / frames
    counts = [int(((kept // tokens) == t).sum()) for t in range(frames)]
    assert sum(counts) == 15
    assert all(abs(count - 3 * scale) < 1 for count, scale in zip(counts, scales.tolist(), strict=True))
    for t, count in enumerate(counts):
        own = kept[kept // tokens == t] % tokens
        assert set(own.tolist()) == set((video + frame)[t].topk(count, largest=False).indices.tolist())


def test_vidcom2_gives_most_to_the_frame_that_stands_out() -> None:
    states = draws(1, 8).expand(4 * 9, 8) + 0.1 * draws(36, 8, seed=1)
    states[9:18] += 2 * draws(1, 8, seed=2)
    kept = VidCom2().choose_video(list(torch.arange(36).view(4, 9)), states, 12)
    counts = (kept // 9).bincount(minlength=4).tolist()
    assert counts[1] == max(counts) > 3
    assert min(counts) >= 1
    assert likeness(states[:1], states[0]).item() == pytest.approx(5)


# V-CAST.


def test_vcast_curvature_is_high_where_the_video_turns() -> None:
    straight = torch.tensor([[1.0, 0.0], [1.0, 0.1], [1.0, 0.2], [1.0, 0.1], [1.0, 0.0]])
    found = curvature(straight)
    assert found[0] == found[-1] == 1
    assert found[2] > 1.9  # there and back
    assert found[1] < 0.1
    assert curvature(straight[:2]).tolist() == [1, 1]


def test_vcast_keeps_one_of_each_frame_and_most_where_it_turns() -> None:
    frames = [draws(6, 4, seed=seed) for seed in range(5)]
    method = VCast(temperature=0.7)
    weights = torch.softmax(curvature(torch.stack([frame.mean(0) for frame in frames])) / 0.7, 0)
    counts = method.frame_shares(frames, 15)
    assert sum(counts) == 15
    assert all(abs(count - 1 - 10 * w) < 1 for count, w in zip(counts, weights.tolist(), strict=True))
    assert sum(method.frame_shares(frames, 3)) == 3
    assert method.frame_shares(frames, 30) == [6] * 5


def test_vcast_scores_by_direction_and_length() -> None:
    tokens = torch.tensor([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0], [3.0, 0.0]])
    score = standing_out(tokens)
    assert score.argsort(descending=True)[:2].tolist() in ([2, 3], [3, 2])
    assert score[3] - score[0] == pytest.approx(1, abs=1e-4)  # as long as any, the same direction


# HoliTom.


@settings(max_examples=60, deadline=None)
@given(frames=st.integers(1, 6), positions=st.integers(1, 4), seed=st.integers(0, 999))
def test_holitom_windows_leave_as_few_tokens_as_any(frames: int, positions: int, seed: int) -> None:
    similar = torch.rand(frames - 1, positions, generator=torch.Generator().manual_seed(seed)) < 0.6

    def saved(lengths: list[int]) -> int:
        total, begin = 0, 0
        for length in lengths:
            static = similar[begin : begin + length - 1].all(0).sum() if length > 1 else 0
            total += int(static) * (length - 1)
            begin += length
        return total

    found = static_windows(similar)
    assert sum(found) == frames
    ways = [
        [b - a for a, b in pairwise((0, *cuts, frames))]
        for count in range(frames)
        for cuts in combinations(range(1, frames), count)
    ]
    assert saved(found) == max(map(saved, ways))


def test_holitom_merges_what_repeats_and_spends_the_budget() -> None:
    still, moving = draws(1, 3, 8).expand(4, 3, 8), draws(4, 2, 8, seed=1)
    states = torch.cat([still, moving], 1)
    numbers = torch.arange(20).view(4, 5)
    method = HoliTom()
    pieces = method.pieces(numbers, states)
    assert [each.tolist() for each in pieces.static] == [[0, 1, 2]]
    attention = torch.arange(20.0)
    owner = method.owners([pieces], attention, 11, 20)  # 3 static ones, 8 others
    assert owner.view(4, 5)[:, :3].tolist() == [[0, 1, 2]] * 4
    assert owner.view(4, 5)[:, 3:].tolist() == numbers[:, 3:].tolist()
    more = method.owners([pieces], attention, 15, 20)
    assert (more == torch.arange(20)).sum() == 15
    less = method.owners([pieces], attention, 6, 20)
    kept = (less == torch.arange(20)).nonzero().flatten()
    assert len(kept) == 6
    for frame in numbers.tolist():  # of two moving tokens the one of more attention, if one stays
        alive = [number for number in frame[3:] if number in kept]
        assert alive in ([], [frame[4]], frame[3:])


def test_holitom_merges_inside_the_decoder_into_the_most_similar() -> None:
    prefill, (embeds,) = prefill_of(TINY)
    method = HoliTom(flops=0.4)
    plan = method.plan(prefill)
    assert plan is not None
    layers = run_plan(plan, 0, embeds)
    text = len(layers[0]) - plan.samples[0].schedule.visual[0]  # type: ignore[union-attr]
    counts = [len(alive) - text for alive in layers]
    cut = method.cuts(SHAPE)[1]
    assert cut == 8  # 18 of 28
    assert counts[cut] == int(0.5 * counts[0])
    layout = prefill.layouts[0]
    live = LiveTokens(layout)
    states = draws(len(layout.real), 8, seed=5)
    scores = torch.rand(
        len(layout.real), dtype=torch.float64, generator=torch.Generator().manual_seed(1)
    ).log()
    rule = method.rule(prefill, 0, method.schedule_of(SHAPE, layout))
    kept, into = rule(Cut(cut, 10, live, scores, states))
    tokens = torch.nn.functional.normalize(states[live.row], dim=-1)
    assert set(kept.tolist()) == set(scores[live.row].topk(10).indices.tolist())
    assert torch.equal(into, (tokens @ tokens[kept].T).argmax(1))
    assert HoliTom(flops=0.4, inner=1.0).cuts(SHAPE) == (0,)


# FlashVID.


@settings(max_examples=40, deadline=None)
@given(frames=st.integers(1, 3), tokens=st.integers(2, 7), seed=st.integers(0, 999), data=st.data())
def test_flashvid_chooses_the_attended_and_diverse(frames: int, tokens: int, seed: int, data: Any) -> None:
    states = draws(frames, tokens, 5, seed=seed)
    attention = torch.rand(frames, tokens, generator=torch.Generator().manual_seed(seed))
    counts = data.draw(st.lists(st.integers(0, tokens), min_size=frames, max_size=frames))
    found = diverse(states, attention, counts)
    units = torch.nn.functional.normalize(states, dim=-1)
    for t, count in enumerate(counts):
        distance = (1 - units[t] @ units[t].T).clamp(min=0)
        weight = attention[t] * (states[t] @ states.mean((0, 1))).clamp(min=0)
        chosen: list[int] = []
        for _ in range(count):
            scores = []
            for j in range(tokens):
                near = chosen or [i for i in range(tokens) if i != j]
                scores.append(-1.0 if j in chosen else float(distance[near, j].min() * weight[j]))
            chosen.append(max(range(tokens), key=scores.__getitem__))
        assert set(found[t].nonzero().flatten().tolist()) == set(chosen)


def test_flashvid_compares_with_any_place_of_the_frame_before() -> None:
    states = draws(2, 3, 6)
    states[1] = states[0].flip(0)
    among = torch.tensor([[True, True, False], [True, True, True]])
    before, like = most_similar_before(states, among)
    assert before[:3].tolist() == [-1, -1, -1]
    assert like[:3].tolist() == [-2, -2, -2]
    assert before[4:].tolist() == [1, 0]
    assert like[4:].tolist() == pytest.approx([1, 1])
    assert like[3] < 0.99  # its twin is not among them


def test_flashvid_merges_over_time_before_space() -> None:
    method = FlashVID(alpha=0.0)
    states = torch.eye(4)[None].repeat(3, 1, 1)  # the same four tokens in every frame
    owner = method.prune_segment(states, torch.ones(3, 4), [2, 1, 1])
    assert owner.view(3, 4).tolist() == [[0, 1, 2, 3]] * 3
    owner = method.prune_segment(states, torch.ones(3, 4), [1, 1, 0])
    assert (owner == torch.arange(12)).sum() == 2
    assert (owner >= 0).all()


def test_flashvid_prunes_again_inside() -> None:
    prefill, (embeds,) = prefill_of(TINY)
    method = FlashVID(flops=0.4)
    layers = run_plan(method.plan(prefill), 0, embeds)  # type: ignore[arg-type]
    assert method.cuts(SHAPE) == (0, 9)  # 20 of 28
    visual = [len(alive) - (len(prefill.layouts[0].real) - len(prefill.layouts[0].index)) for alive in layers]
    assert visual[9] == int(0.3 * visual[0])


# ShaRP, priors, sinks.


def test_repeats_are_those_below_a_similar_one_of_their_segment() -> None:
    states = torch.tensor([[1.0, 0], [1.0, 0.01], [0, 1.0], [1.0, 0.0]])
    score = torch.tensor([0.1, 0.5, 0.2, 0.05])
    segment = torch.tensor([0, 0, 0, 1])
    assert repeats(states, score, segment, 0.9).tolist() == [True, False, False, False]
    assert repeats(states, score, torch.zeros(4, dtype=torch.int64), 0.9).tolist() == [
        True,
        False,
        False,
        True,
    ]


def test_sharp_keeps_duplicates_last() -> None:
    prefill, _ = prefill_of(TINY, seed=3)
    layout = prefill.layouts[0]
    live = LiveTokens(layout)
    states = draws(len(layout.real), 8)
    states[live.row[1:36]] = states[live.row[0]].clone()  # one frame shows one thing all over
    scores = torch.rand(
        len(layout.real), dtype=torch.float64, generator=torch.Generator().manual_seed(2)
    ).log()
    method = ShaRP(flops=0.4, tau_s=0.95)
    rule = method.rule(prefill, 0, method.schedule_of(SHAPE, layout))
    kept = rule(Cut(1, 500, live, scores, states))
    assert len(kept) == 500  # type: ignore[arg-type]
    assert int((kept < 36).sum()) == 1  # type: ignore[operator]
    assert len(rule(Cut(1, 570, live, scores, states))) == 570  # type: ignore[arg-type]


def test_places_explain_nothing_of_what_is_left() -> None:
    frames, positions = 12, 5
    frame = torch.arange(frames).repeat_interleave(positions)
    position = torch.arange(positions).repeat(frames)
    time = time_of(frame, frames)
    place = 3 * time**2 - time + torch.tensor([0.0, 2, 0, -1, 4])[position]
    assert without_place(place, time, position).abs().max() < 1e-6
    content = torch.zeros(len(place), dtype=torch.float64)
    content[17] = 5
    found = without_place(place + content, time, position)
    assert found.argmax() == 17
    assert found[17] > 3
    hidden = (place + content).masked_fill(frame == 2, -torch.inf)
    found = without_place(hidden, time, position)
    assert torch.isneginf(found[frame == 2]).all()
    assert found.argmax() == 17
    assert time_of(torch.tensor([0]), 1).tolist() == [0]


def test_sink_damping_by_the_papers_rule() -> None:
    prefill, _ = prefill_of([(4, 2, 2), (3, 2, 3)])
    layout = prefill.layouts[0]
    attention = torch.rand(len(layout.index), generator=torch.Generator().manual_seed(0))
    found = damped(attention, layout, 0.1)
    first, second = attention[:16].view(4, 4), attention[16:].view(3, 6)
    for part, got in ((first, found[:16].view(4, 4)), (second, found[16:].view(3, 6))):
        sink = part.sum(0) ** 1.1
        sink = (sink - sink.min()) / (sink.max() - sink.min())
        assert torch.allclose(got, part - 0.1 * sink, atol=1e-6)
    assert damped(attention, layout, 0) is attention


@pytest.mark.parametrize("method", [VisionZip, FastVID, HoliTom])
def test_damping_keeps_sinks_out(method: Any) -> None:
    prefill, (embeds,) = prefill_of(TINY)
    layout = prefill.layouts[0]
    sink = layout.position == 7
    prefill.tower_attention(0)[sink] = 2  # in every frame
    kept = {}
    for weight in (0.0, 10.0):
        plan = method(flops=0.3, sink=weight, **({"tau": 1.0} if method is HoliTom else {})).plan(prefill)
        kept[weight] = int(torch.isin(layout.index[sink], run_plan(plan, 0, embeds)[0]).sum())
    assert kept[10.0] < kept[0.0]
