"""The peers: each rule against a plain re-statement of it, all of them under the same budget."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st
from torch import Tensor

from adatp.budget import BudgetError
from adatp.errors import SettingError
from adatp.flops import prefill_flops
from adatp.layout import Grid, PromptCounts, build_layouts
from adatp.methods import METHODS, AdaTP, FlashVID, HoliTom, Vanilla, VCast, VidCom2
from adatp.methods.base import Method
from adatp.methods.clustering import cluster, density_peaks, distances, nearest
from adatp.methods.dycoke import DyCoke, least_like
from adatp.methods.fastv import FastV
from adatp.methods.fastvid import FastVID, segment_lengths
from adatp.methods.framefusion import FrameFusion, merge_runs, same_place_before
from adatp.methods.prunevid import PruneVid, smooth_runs, static_positions
from adatp.methods.pyramiddrop import PyramidDrop
from adatp.methods.random import Random
from adatp.methods.selection import (
    evenly_spaced,
    kept_and_into,
    split_evenly,
    split_in_proportion,
    top,
)
from adatp.methods.token_plan import TokenPlan
from adatp.methods.uniform_frames import UniformFrames
from adatp.methods.uniform_grid import UniformGrid, grid_points
from adatp.methods.visionzip import VisionZip, zip_frame
from adatp.prefill import Prefill
from families import FAMILIES, VIDEO, Prompt, batch, build
from prefills import SHAPE, TINY, prefill_of, run_plan, with_gaps

PEERS: list[Any] = [method for method in METHODS.values() if method not in (AdaTP, Vanilla)]
peers = pytest.mark.parametrize("method", PEERS, ids=lambda method: method.name)


def flops_of(plan: TokenPlan, sample: int, layers: list[Tensor]) -> float:
    complete = len(plan.real[sample])
    spent = prefill_flops(
        SHAPE, [len(alive) for alive in layers], dict.fromkeys(plan.scored, len(plan.queries[sample]))
    )
    return spent / prefill_flops(SHAPE, [complete] * SHAPE.layers)


# Every method under the same budget.

grids = st.tuples(st.integers(1, 9), st.integers(1, 6), st.integers(1, 6))


def plan_or_lowest(peer: Method, prefill: Prefill) -> tuple[TokenPlan | None, float | None]:
    try:
        return peer.plan(replace(prefill, strict=True)), None
    except BudgetError as error:
        return None, error.lowest


@peers
@given(
    videos=st.lists(grids, min_size=1, max_size=3),
    target=st.floats(0.05, 0.99),
    seed=st.integers(0, 99),
)
@example(videos=TINY, target=0.273, seed=0)
@example(videos=[(1, 1, 1)], target=0.5, seed=0)
@example(videos=[(1, 6, 6)], target=0.4, seed=0)
@settings(max_examples=25, deadline=None)
def test_invariants(method: Any, videos: list[Grid], target: float, seed: int) -> None:
    """Text stays, tokens only go, FLOPs stay within the target; out of reach is said with the lowest."""
    prefill, (embeds,) = prefill_of(videos, seed=seed)
    check_invariants(method, prefill, embeds, target, seed)


@pytest.mark.parametrize(
    "method", [peer for peer in PEERS if not peer.complete_frames], ids=lambda method: method.name
)
@given(
    videos=st.lists(grids, min_size=1, max_size=3),
    full=st.sampled_from([0.2, 0.7]),
    target=st.floats(0.05, 0.99),
    seed=st.integers(0, 99),
)
@settings(max_examples=25, deadline=None)
def test_invariants_where_cells_have_no_token(
    method: Any, videos: list[Grid], full: float, target: float, seed: int
) -> None:
    prefill, embeds = with_gaps(videos, full, seed)
    check_invariants(method, prefill, embeds, target, seed)


def check_invariants(method: Any, prefill: Prefill, embeds: Tensor, target: float, seed: int) -> None:
    peer = method(flops=target)
    plan, lowest = plan_or_lowest(peer, prefill)
    if plan is None:
        assert lowest is not None
        assert target < lowest <= 1
        target = lowest
        plan = method(flops=target).plan(prefill)
        if target == 1:
            assert plan is None
            return
    layers = run_plan(plan, 0, embeds, seed)
    layout = prefill.layouts[0]
    words = layout.real[~torch.isin(layout.real, layout.index)]
    for earlier, later in zip([layout.real, *layers], layers, strict=False):
        assert torch.isin(later, earlier).all()
        assert torch.isin(words, later).all()
    assert len(layers[-1]) > len(words)
    assert flops_of(plan, 0, layers) <= target
    scheduled = plan.notes()[0]["schedule"]
    counts = [len(alive) - len(words) for alive in layers]
    if method is PruneVid:
        assert counts[0] <= scheduled[0]
        assert counts[-1] >= min(counts[0], scheduled[-1])
    elif method is FrameFusion:
        assert counts[-1] >= 1
    else:
        assert counts == scheduled


@peers
@pytest.mark.parametrize("target", [0.3, 0.5, 0.8])
def test_the_target_is_met_from_close_below(method: Any, target: float) -> None:
    prefill, (embeds,) = prefill_of([(16, 8, 8)])
    plan = method(flops=target).plan(prefill)
    reached = flops_of(plan, 0, run_plan(plan, 0, embeds))
    assert reached <= target
    if method is not PruneVid or target < 0.5:  # merged over time they may be too few to spend it on
        assert reached > 0.98 * target


@peers
def test_a_batch_is_its_single_samples(method: Any) -> None:
    """Ragged, padded, one prompt with two videos; each sample as if it were alone."""
    prompts = [TINY, [(5, 3, 4), (2, 6, 6)], [(9, 4, 4)]]
    together, embeds = prefill_of(*prompts, pads=2)
    plan = method(flops=0.5).plan(together)
    for number, (prompt, states) in enumerate(zip(prompts, embeds, strict=True)):
        alone, _ = prefill_of(prompt)
        left = int(together.layouts[number].real[0] - alone.layouts[0].real[0])
        single = Prefill(
            SHAPE,
            alone.layouts,
            frame_features=lambda _, number=number: together.frame_features(number),
            relevance=lambda _: None,
            tower_attention=lambda _, number=number: together.tower_attention(number),
        )
        expected = run_plan(method(flops=0.5).plan(single), 0, states[left:])
        for got, want in zip(run_plan(plan, number, states), expected, strict=True):
            assert torch.equal(got - left, want)


TWO = [UniformFrames, UniformGrid, VisionZip, DyCoke, PruneVid, FastVID, HoliTom, VidCom2, FlashVID, VCast]


@pytest.mark.parametrize("method", TWO)
def test_two_videos_are_pruned_as_two(method: Any) -> None:
    """Neither is emptied; the other methods rank all visual tokens together."""
    prefill, (embeds,) = prefill_of([(8, 4, 4), (4, 6, 6)])
    plan = method(flops=0.4).plan(prefill)
    before = run_plan(plan, 0, embeds)[0]
    layout = prefill.layouts[0]
    for video in (0, 1):
        own = layout.index[layout.video == video]
        assert 0.15 < torch.isin(own, before).float().mean() < 0.85


@peers
def test_keeping_all_and_no_video(method: Any) -> None:
    prefill, _ = prefill_of(TINY)
    assert method(flops=1.0).plan(prefill) is None
    assert list(method(flops=1.0).scored_layers(SHAPE)) == []
    schedule = method(flops=1.0).schedule(SHAPE, PromptCounts(100, 10, 5))
    assert schedule.visual == (100,) * 12
    assert schedule.ratio == 1
    prefill, (_, words) = prefill_of(TINY, [])
    plan = method(flops=0.5).plan(prefill)
    assert plan.notes()[1] == {}
    assert torch.equal(plan.select(min(plan.cuts), 1, plan.real[1], None, words).kept, plan.real[1])


@pytest.mark.parametrize(
    ("method", "setting"),
    [
        (FastV, {"layer": 0}),
        (PruneVid, {"layer": 0}),
        (PruneVid, {"alpha": 0}),
        (PruneVid, {"neighbours": 0}),
        (PyramidDrop, {"stages": ()}),
        (PyramidDrop, {"stages": (0.5, 1)}),
        (VisionZip, {"contextual": 1}),
        (FastVID, {"anchors": 0}),
        (FastVID, {"context": 1.1}),
        (FrameFusion, {"similarity": 2}),
        (FrameFusion, {"least_merged": -1}),
    ],
    ids=str,
)
def test_parameters_that_make_no_sense(method: Any, setting: dict[str, Any]) -> None:
    with pytest.raises(SettingError):
        method(**setting)


@peers
def test_targets_that_make_no_sense(method: Any) -> None:
    for flops in (0, -1, 1.5, math.nan):
        with pytest.raises(BudgetError, match="in \\(0, 1\\]"):
            method(flops=flops)
    with pytest.raises(BudgetError, match="out of reach"):
        method(flops=0.001).schedule(SHAPE, PromptCounts(100, 10, 5))


# Random and uniform.


def kept_first(peer: Method, prefill: Prefill, embeds: Tensor) -> Tensor:
    """Numbers of the visual tokens that the first layer processes."""
    layout = prefill.layouts[0]
    return torch.isin(layout.index, run_plan(peer.plan(prefill), 0, embeds)[0]).nonzero().squeeze(1)


def test_random_is_a_matter_of_the_seed_and_uniform() -> None:
    prefill, (embeds,) = prefill_of([(4, 3, 3)])
    chosen = [kept_first(Random(flops=0.5, seed=seed), prefill, embeds) for seed in range(300)]
    assert torch.equal(chosen[3], kept_first(Random(flops=0.5, seed=3), prefill, embeds))
    assert not torch.equal(chosen[3], chosen[4])
    often = torch.cat(chosen).bincount(minlength=36) / 300
    share = len(chosen[0]) / 36
    assert (often - share).abs().max() < 5 * math.sqrt(share * (1 - share) / 300)


def test_uniform_frames_are_complete_but_for_the_last() -> None:
    prefill, (embeds,) = prefill_of(TINY)
    kept = kept_first(UniformFrames(flops=0.4), prefill, embeds)
    of_frame = (kept // 36).bincount(minlength=16)
    used = of_frame.nonzero().squeeze(1)
    complete, rest = divmod(len(kept), 36)
    assert of_frame[used].tolist() == [36] * complete + [rest] * (rest > 0)
    assert used.diff().max() - used.diff().min() <= 1
    assert used[0] <= 2
    assert used[-1] >= 13
    assert (kept[kept // 36 == used[-1]].diff() > 1).any()


def test_uniform_grid_takes_as_much_of_every_frame() -> None:
    prefill, (embeds,) = prefill_of(TINY)
    kept = kept_first(UniformGrid(flops=0.3), prefill, embeds)
    of_frame = (kept // 36).bincount(minlength=16)
    assert of_frame.max() - of_frame.min() <= 1


@given(rows=st.integers(1, 9), columns=st.integers(1, 9), share=st.floats(0, 1))
def test_grid_points_cover_the_grid(rows: int, columns: int, share: float) -> None:
    count = round(share * rows * columns)
    points = grid_points(count, rows, columns)
    assert len(points) == count
    assert (points.diff() > 0).all()
    assert count == 0 or 0 <= points.min() <= points.max() < rows * columns
    in_row = (points // columns).bincount(minlength=rows)
    assert in_row[in_row > 0].float().var(unbiased=False) < 0.26 if count else True


def test_nine_points_of_a_grid_are_three_by_three() -> None:
    assert grid_points(9, 6, 6).tolist() == [7, 9, 11, 19, 21, 23, 31, 33, 35]


# FastV and PyramidDrop.


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@pytest.mark.parametrize("layer", [1, 2, 3])
@pytest.mark.parametrize("family", FAMILIES[:2], ids=lambda family: family.name)
def test_fastv_keeps_what_its_official_rule_keeps(family: Any, layer: int, attention: str) -> None:
    """Re-stated on the attention that the unpruned model gives out: last row, head mean, top k, ascending."""
    inputs = batch(family, [Prompt(frames=16)])
    with torch.no_grad():
        attentions = build(family, "eager")(**inputs, output_attentions=True).attentions
    last_row = attentions[layer - 1][0].mean(0)[-1]
    image = (inputs["input_ids"][0] == VIDEO).nonzero().squeeze(1)[: 16 * family.tokens_a_frame]
    model = build(family, attention)
    with FastV(flops=0.7, layer=layer)(model) as run, torch.no_grad():
        model(**inputs)
    keep = run.report.visual_tokens[layer][0]
    assert 0 < keep < len(image)
    start = int(image[0])
    top_image = last_row[start : start + len(image)].topk(keep).indices + start
    everything = torch.arange(inputs["input_ids"].shape[1])
    expected = torch.cat([everything[:start], top_image, everything[start + len(image) :]]).sort().values
    assert run.report.kept[layer][0].tolist() == expected.tolist()
    assert len(run.report.kept[layer - 1][0]) == len(everything)


def test_k_scales_with_the_depth() -> None:
    deep = {layers: replace(SHAPE, layers=layers) for layers in (12, 28, 32, 64)}
    assert [FastV().cuts(deep[layers]) for layers in (32, 28, 12, 64)] == [(2,), (2,), (1,), (4,)]
    assert FastV(layer=3).cuts(deep[12]) == (3,)
    assert PyramidDrop().cuts(deep[32]) == (8, 16, 24)
    assert PyramidDrop().cuts(deep[12]) == (3, 6, 9)
    assert PruneVid().cuts(deep[32]) == (0, 11)
    assert PruneVid().cuts(deep[12]) == (0, 4)
    with pytest.raises(BudgetError, match=r"before layers \[12\]: the decoder has 12"):
        FastV(layer=12, flops=0.5).schedule(SHAPE, PromptCounts(100, 10, 5))


def test_pyramiddrop_keeps_the_same_ratio_from_stage_to_stage() -> None:
    schedule = PyramidDrop(flops=0.6).schedule(SHAPE, PromptCounts(4000, 10, 5))
    a, b, c, d = (schedule.visual[layer] for layer in (0, 3, 6, 9))
    assert schedule.visual == (a,) * 3 + (b,) * 3 + (c,) * 3 + (d,) * 3
    assert a == 4000
    assert b / a == pytest.approx(c / b, abs=0.002) == pytest.approx(d / c, abs=0.002)
    # The paper's lambda of a half, read backwards: the FLOPs it costs give it back.
    half = [4000] * 3 + [2000] * 3 + [1000] * 3 + [500] * 3
    spent = prefill_flops(SHAPE, [n + 10 for n in half], {2: 1, 5: 1, 8: 1})
    target = spent / prefill_flops(SHAPE, [4010] * 12)
    found = PyramidDrop(flops=target + 1e-9).schedule(SHAPE, PromptCounts(4000, 10, 5))
    assert list(found.visual) == half


@pytest.mark.parametrize("method", [FastV, PyramidDrop], ids=lambda method: method.name)
def test_the_highest_scores_stay_and_one_token_asks(method: Any) -> None:
    prefill, (embeds,) = prefill_of(TINY)
    plan = method(flops=0.6).plan(prefill)
    layout, cut = prefill.layouts[0], min(plan.cuts)
    assert plan.queries[0].tolist() == layout.question[-1:].tolist()
    assert plan.scored == {layer - 1 for layer in plan.cuts}
    scores = torch.rand(len(layout.real), generator=torch.Generator().manual_seed(1))
    scores[5] = math.nan
    kept = plan.select(cut, 0, layout.real, scores, embeds).kept
    visual = torch.isin(layout.real, layout.index)
    dropped = ~torch.isin(layout.real, kept)
    assert scores[dropped & ~scores.isnan()].max() <= scores[visual & ~dropped].min()
    assert dropped[5]


@pytest.mark.parametrize("value", [math.nan, math.inf])
@pytest.mark.parametrize("method", METHODS.values(), ids=lambda method: method.name)
def test_embeddings_that_are_no_numbers_are_no_error(method: Any, value: float) -> None:
    """As of a tower whose half precision overflows. The model itself goes on."""
    prefill, (embeds,) = prefill_of([(4, 3, 3), (2, 3, 3)])
    layout = prefill.layouts[0]
    embeds[layout.index[2:5]] = value
    chosen = method() if method is Vanilla else method(flops=0.6)
    plan = chosen.plan(prefill)
    if plan is not None:
        last = run_plan(plan, 0, embeds)[-1]
        assert layout.counts.other < len(last) < layout.counts.tokens


# VisionZip.


@given(n=st.integers(1, 30), data=st.data())
def test_visionzip_frame_by_its_official_rule(n: int, data: st.DataObject) -> None:
    keep = data.draw(st.integers(1, n))
    contextual = data.draw(st.integers(0, keep))
    generator = torch.Generator().manual_seed(data.draw(st.integers(0, 99)))
    states, attention = torch.randn(n, 4, generator=generator), torch.rand(n, generator=generator)
    owner = zip_frame(states, attention, keep, contextual)
    dominant = attention.topk(keep - contextual).indices.tolist()
    rest = [token for token in range(n) if token not in dominant]
    kept = [token for token in range(n) if owner[token] == token]
    assert len(kept) == keep
    assert set(dominant) <= set(kept)
    targets = [token for token in kept if token not in dominant]
    assert targets == rest[:: max(1, len(rest) // max(1, contextual))][:contextual]
    for token in set(rest) - set(targets):
        like = [torch.cosine_similarity(states[token], states[target], dim=0) for target in targets]
        assert owner[token] == (targets[int(torch.stack(like).argmax())] if targets else -1)


def test_visionzip_keeps_the_papers_proportion_in_every_frame() -> None:
    prefill, (embeds,) = prefill_of([(4, 16, 16)])
    plan = VisionZip(flops=0.3).plan(prefill)
    layout = prefill.layouts[0]
    selection = plan.select(0, 0, layout.real, None, embeds)
    number = torch.searchsorted(layout.real, layout.index)
    kept = torch.isin(layout.index, selection.kept)
    merged_into = selection.into[number].bincount(minlength=len(selection.kept))
    of_kept = merged_into[selection.into[number[kept]]]
    for frame in range(4):
        own = layout.frame[kept] == frame
        assert abs(int(own.sum()) - kept.sum() / 4) < 1
        contextual = round(int(own.sum()) * 10 / 64)
        assert 0 < int((of_kept[own] > 1).sum()) <= contextual
        weights = prefill.tower_attention(0)[layout.frame == frame]
        dominant = layout.index[layout.frame == frame][weights.topk(int(own.sum()) - contextual).indices]
        assert torch.isin(dominant, layout.index[kept][of_kept == 1]).all()


def test_visionzip_frame_by_frame_where_cells_have_no_token() -> None:
    """Each frame as if it were alone: a frame's share is its part of the tokens that there are."""
    prefill, embeds = with_gaps([(6, 5, 5), (4, 3, 3)], 0.5, 0)
    layout = prefill.layouts[0]
    plan = VisionZip(flops=0.4).plan(prefill)
    selection = plan.select(0, 0, layout.real, None, embeds)
    visual = torch.searchsorted(layout.real, layout.index)
    kept = torch.isin(layout.index, selection.kept)
    sizes = layout.tokens_by_frame.tolist()
    shares = split_in_proportion(int(kept.sum()), sizes)
    assert layout.frame[kept].bincount(minlength=10).tolist() == shares
    for frame, share in enumerate(shares):
        own = (layout.frame == frame).nonzero().squeeze(1)
        owner = zip_frame(
            embeds[layout.index[own]], prefill.tower_attention(0)[own], share, round(share * 10 / 64)
        )
        into = selection.into[visual[own]]
        assert torch.equal(into >= 0, owner >= 0)
        assert torch.equal(selection.kept[into[owner >= 0]], layout.index[own[owner[owner >= 0]]])


# DyCoke.


@given(frames=st.integers(1, 9), seed=st.integers(0, 99), share=st.floats(0, 1))
def test_dycoke_drops_what_its_official_rule_drops(frames: int, seed: int, share: float) -> None:
    """Re-stated window by window: 2nd and 3rd frame against the first, 4th against the third."""
    prefill, (embeds,) = prefill_of([(frames, 3, 3)], seed=seed)
    layout = prefill.layouts[0]
    keep = round(9 * share)
    tokens = embeds[layout.index].view(frames, 9, 8)
    got = least_like(layout, embeds[layout.index], [keep] * frames)
    expected = []
    for window in range(0, frames, 4):
        for place, against in ((0, None), (1, 0), (2, 0), (3, 2)):
            frame = window + place
            if frame >= frames:
                break
            if against is None:
                expected += range(frame * 9, frame * 9 + 9)
                continue
            like = torch.cosine_similarity(tokens[frame], tokens[window + against], dim=1)
            expected += sorted((like.topk(keep, largest=False).indices + frame * 9).tolist())
    assert got.tolist() == expected


def test_dycoke_keeps_first_frames_complete_and_says_its_floor() -> None:
    prefill, (embeds,) = prefill_of(TINY)
    of_frame = (kept_first(DyCoke(flops=0.4), prefill, embeds) // 36).bincount(minlength=16)
    assert of_frame[::4].tolist() == [36] * 4
    others = of_frame[torch.arange(16) % 4 > 0]
    assert others.max() - others.min() <= 1
    assert others.max() < 36
    with pytest.raises(BudgetError) as error:
        DyCoke(flops=0.15).plan(replace(prefill, strict=True))
    assert error.value.lowest == pytest.approx(
        prefill_flops(SHAPE, [144 + 9] * 12) / prefill_flops(SHAPE, [576 + 9] * 12), abs=1e-4
    )
    prefill, _ = prefill_of([(5, 6, 6)])  # two windows, the second of one frame
    assert plan_or_lowest(DyCoke(flops=0.35), prefill)[1] == pytest.approx(
        prefill_flops(SHAPE, [72 + 9] * 12) / prefill_flops(SHAPE, [180 + 9] * 12), abs=1e-4
    )


# PruneVid.


@pytest.mark.parametrize(
    ("labels", "lengths"),
    [
        ([0, 0, 0, 0], [4]),
        ([0, 0, 1, 1], [2, 2]),
        ([0, 0, 0, 1, 2, 2], [4, 2]),  # a lone frame joins the longer neighbour
        ([0, 0, 1, 2, 2, 2], [2, 4]),
        ([0, 0, 1, 2, 2], [3, 2]),  # the left one of equals
        ([0, 0, 0, 1, 1, 0, 0], [3, 4]),  # a label's second, shorter run goes
        ([0, 0, 1, 0, 0], [5]),  # and two of the same label close up over a gap
        ([1, 0, 0, 1, 1, 1], [3, 3]),
        ([0, 1, 2, 3], [4]),
        ([3], [1]),
    ],
)
def test_prunevid_windows(labels: list[int], lengths: list[int]) -> None:
    assert smooth_runs(labels) == lengths


@given(w=st.integers(2, 5), p=st.integers(1, 5), seed=st.integers(0, 99), tau=st.floats(-0.5, 0.9))
def test_prunevid_static_positions_by_every_pair(w: int, p: int, seed: int, tau: float) -> None:
    states = torch.randn(w, p, 4, generator=torch.Generator().manual_seed(seed))
    for position, static in enumerate(static_positions(states, tau)):
        like = [
            torch.cosine_similarity(states[a, position], states[b, position], dim=0)
            for a in range(w)
            for b in range(w)
            if a != b
        ]
        mean = float(torch.stack(like).mean())
        assume(abs(mean - tau) > 1e-5)
        assert bool(static) == (mean > tau)


def test_prunevid_merges_over_time_then_space() -> None:
    """Two scenes of four frames; one position moves, the rest stand still and show one of two things."""
    look = torch.eye(8)
    scene = [look[0], look[0], look[1], look[1]]
    frames = [[*scene, look[2 + frame]] for frame in range(4)]
    frames += [[-part for part in frame] for frame in frames]
    embeds = torch.stack([torch.stack(frame) for frame in frames]).flatten(0, 1)
    ids = torch.tensor([[9] * 40 + [1] * 3])
    layouts = build_layouts(ids, ids > 0, [(8, 1, 5)], video_token_id=9)
    none: Any = None
    prefill = Prefill(SHAPE, layouts, none, none, none)
    peer = PruneVid(flops=0.5, neighbours=2)
    owner = torch.full((40,), -1)
    groups = peer._groups(torch.arange(40).view(8, 5), embeds.view(8, 5, 8))
    assert [tuple(members.shape) for members in groups] == [(4, 4), *[(1, 1)] * 4] * 2
    owner = peer._merge(embeds, groups, 12)
    kept, into = kept_and_into(owner)
    assert len(kept) == 12
    assert (into >= 0).all()
    for frame in range(8):
        first = frame // 4 * 4 * 5
        assert owner[frame * 5 : frame * 5 + 4].tolist() == [first, first, first + 2, first + 2]
        assert owner[frame * 5 + 4] == frame * 5 + 4
    assert prefill.layouts[0].frames == 8


def test_prunevid_prunes_each_group_by_the_question() -> None:
    prefill, (embeds,) = prefill_of(TINY)
    plan = PruneVid(flops=0.3).plan(prefill)
    layout = prefill.layouts[0]
    assert plan.queries[0].tolist() == layout.question.tolist()
    merged = plan.select(0, 0, layout.real, None, embeds).kept
    scores = torch.rand(len(merged), generator=torch.Generator().manual_seed(0))
    cut = max(plan.cuts)
    kept = plan.select(cut, 0, merged, scores, embeds[merged]).kept
    words = len(layout.real) - len(layout.index)
    schedule = plan.notes()[0]["schedule"]
    most, left = schedule[0], schedule[cut]
    assert len(merged) - words == most
    assert left == int(0.4 * most)
    assert left <= len(kept) - words <= left + 3
    # Not the highest scores of all: every group gives its share.
    visual = torch.isin(merged, layout.index)
    best = merged[visual][top(scores[visual], left)]
    assert not torch.isin(best, kept).all()
    frames = layout.frame[torch.searchsorted(layout.index, kept[torch.isin(kept, layout.index)])]
    assert len(frames.unique()) == 16


# FastVID.


def test_fastvid_segments() -> None:
    turn = torch.tensor([0.0, 1, 2, 40, 41, 43, 100, 100.5]).deg2rad()
    features = torch.stack([turn.cos(), turn.sin()], 1)
    assert segment_lengths(features, 1, 0.9) == [3, 3, 2]
    assert segment_lengths(features, 4, 0.9) == [3, 2, 1, 2]
    assert segment_lengths(features, 1, -1) == [8]
    assert segment_lengths(features, 99, -1) == [1] * 8
    assert segment_lengths(features[:1], 8, 0.9) == [1]


@given(w=st.integers(1, 9), p=st.integers(1, 12), seed=st.integers(0, 99), data=st.data())
@settings(deadline=None)
def test_fastvid_segment(w: int, p: int, seed: int, data: st.DataObject) -> None:
    """Salient tokens stay, density peaks are of anchor frames, every other token goes to the most similar."""
    share = data.draw(st.integers(1, p))
    generator = torch.Generator().manual_seed(seed)
    states, attention = torch.randn(w, p, 4, generator=generator), torch.rand(w, p, generator=generator)
    peer = FastVID()
    check_ragged_segment(peer, generator, w, p)
    owner = peer.prune_segment(states.flatten(0, 1), attention.flatten(), [p] * w, [share] * w)
    kept = owner == torch.arange(w * p)
    assert int(kept.sum()) == w * share
    peaks = int(0.4 * share)
    salient = torch.zeros(w, p, dtype=torch.bool)
    for frame in range(w):
        salient[frame, attention[frame].topk(share - peaks).indices] = True
    assert (kept >= salient.flatten()).all()
    anchors = (kept & ~salient.flatten()).view(w, p)
    in_frame = anchors.sum(1)
    is_anchor = torch.tensor([(w - 1 - frame) % 4 == 0 for frame in range(w)])
    room = p - (share - peaks)
    assert in_frame[~is_anchor].sum() == max(0, w * peaks - room * int(is_anchor.sum()))
    assert in_frame[is_anchor].max() - in_frame[is_anchor].min() <= 1
    for frame in range(w):
        rest = (~salient[frame]).nonzero().squeeze(1)
        if not in_frame[frame]:
            continue
        score = density_peaks(distances(states[frame, rest]), 4)
        assert torch.equal(rest[top(score, int(in_frame[frame]))], anchors[frame].nonzero().squeeze(1))
    targets = anchors.flatten().nonzero().squeeze(1)
    flat = states.flatten(0, 1)
    for token in (~kept).nonzero().flatten():
        if len(targets):
            like = torch.cosine_similarity(flat[token][None], flat[targets], dim=1)
            assert owner[token] == targets[like.argmax()]
        else:
            assert owner[token] == -1


def check_ragged_segment(peer: FastVID, generator: torch.Generator, w: int, p: int) -> None:
    """Frames of several sizes, by the same rule frame by frame."""
    sizes = torch.randint(p + 1, (w,), generator=generator).tolist()
    shares = [int(torch.randint(size + 1, (1,), generator=generator)) for size in sizes]
    states, attention = (
        torch.randn(sum(sizes), 4, generator=generator),
        torch.rand(sum(sizes), generator=generator),
    )
    owner = peer.prune_segment(states, attention, sizes, shares)
    kept = owner == torch.arange(sum(sizes))
    assert int(kept.sum()) == sum(shares)
    peaks = [int(0.4 * share) for share in shares]
    room = [size - share + peak for size, share, peak in zip(sizes, shares, peaks, strict=True)]
    targets, first = [], 0
    for size, share, peak, of_anchor in zip(
        sizes, shares, peaks, peer.peaks_by_frame(sum(peaks), room), strict=True
    ):
        mine = slice(first, first + size)
        salient = torch.zeros(size, dtype=torch.bool)
        salient[attention[mine].topk(share - peak).indices] = True
        rest = (~salient).nonzero().squeeze(1)
        anchors = (
            rest[top(density_peaks(distances(states[mine][rest]), 4), of_anchor)] if of_anchor else rest[:0]
        )
        salient[anchors] = True
        assert torch.equal(kept[mine], salient)
        targets.append(anchors + first)
        first += size
    target = torch.cat(targets)
    for token in (~kept).nonzero().flatten():
        like = torch.cosine_similarity(states[token][None], states[target], dim=1)
        assert owner[token] == (target[like.argmax()] if len(target) else -1)


# FrameFusion.


def test_framefusion_merges_runs_at_a_position() -> None:
    """Two positions over five frames; the fourth frame's second token has gone already."""
    ids = torch.tensor([[9] * 10 + [1]])
    (layout,) = build_layouts(ids, ids > 0, [(5, 1, 2)], video_token_id=9)
    a, b, c = torch.eye(3)
    states = torch.stack([a, b, a, c, a, c, b, b + 0.1 * c, c])
    token = torch.tensor([0, 1, 2, 3, 4, 5, 6, 8, 9])
    before, like = same_place_before(layout, token, states)
    assert before.tolist() == [-1, -1, 0, 1, 2, 3, 4, 6, 5]
    assert like[[0, 1]].tolist() == [-2, -2]
    assert like[2:].tolist() == pytest.approx([1, 0, 1, 1, 0, 1 / math.sqrt(1.01), 1], abs=1e-5)
    owner = merge_runs(before, (like >= 0.6).nonzero().squeeze(1))
    assert owner.tolist() == [0, 1, 0, 3, 0, 3, 6, 6, 3]


def test_framefusion_does_not_compare_two_videos() -> None:
    prefill, (embeds,) = prefill_of([(1, 2, 2), (1, 2, 2)])
    before, like = same_place_before(prefill.layouts[0], torch.arange(8), embeds[prefill.layouts[0].index])
    assert before.tolist() == [-1] * 8
    assert like.tolist() == [-2] * 8


def still(frames: int) -> tuple[Prefill, Tensor]:
    """A video of one frame over and over."""
    prefill, (embeds,) = prefill_of([(frames, 6, 6)])
    index = prefill.layouts[0].index
    embeds[index] = embeds[index[:36]].repeat(frames, 1)
    return prefill, embeds


def visual_counts(peer: Method, prefill: Prefill, embeds: Tensor) -> list[int]:
    layout = prefill.layouts[0]
    words = len(layout.real) - len(layout.index)
    return [len(alive) - words for alive in run_plan(peer.plan(prefill), 0, embeds)]


def test_framefusion_merges_only_as_much_as_the_budget_asks() -> None:
    """A still video could lose 15 of 16 tokens at once; after that nothing is left to prune."""
    prefill, embeds = still(16)
    counts = visual_counts(FrameFusion(flops=0.3), prefill, embeds)
    assert len(set(counts)) == 1
    assert 36 < counts[0] < 576 * 0.4


@pytest.mark.parametrize(("cosine", "merges"), [(0.65, True), (0.55, False)])
def test_framefusion_merges_from_the_papers_threshold_on(cosine: float, merges: bool) -> None:
    prefill, (embeds,) = prefill_of(TINY)
    turn = torch.arange(16).repeat_interleave(36) * math.acos(cosine)
    embeds[prefill.layouts[0].index] = torch.stack([turn.cos(), turn.sin()], 1).repeat(1, 4)
    counts = visual_counts(FrameFusion(flops=0.3), prefill, embeds)
    assert (counts[0] < 576) == merges


def test_framefusion_merges_the_most_similar_first() -> None:
    """Half the positions stand still, the others turn a little: there is room for all of these."""
    prefill, embeds = still(16)
    index = prefill.layouts[0].index.view(16, 36)
    turning = index[:, 18:]
    angle = (0.5 * torch.arange(16))[:, None].expand(16, 18)
    embeds[turning] = torch.stack([angle.cos(), angle.sin()] * 4, -1)
    first = run_plan(FrameFusion(flops=0.5).plan(prefill), 0, embeds)[0]
    assert torch.isin(turning, first).all()
    assert len(first) < 500


def test_framefusion_prunes_once_where_little_is_similar() -> None:
    prefill, (embeds,) = prefill_of(TINY)
    embeds[:] = torch.randn(embeds.shape, generator=torch.Generator().manual_seed(0))
    # Of random states under a tenth are similar: merging ends at once, pruning follows a layer later.
    counts = visual_counts(FrameFusion(flops=0.3), prefill, embeds)
    assert 0.9 * 576 < counts[0] <= 576
    assert len(set(counts[1:])) == 1
    schedule = FrameFusion(flops=0.3).schedule(SHAPE, PromptCounts(576, len(embeds) - 576, 5)).visual
    assert counts[1] == pytest.approx(schedule[1], rel=0.2)
    assert counts[1] >= schedule[1]


def test_framefusion_goes_on_merging_while_a_tenth_is_similar() -> None:
    """In front of each layer a share of the positions stands still: merging takes several layers."""
    prefill, _ = prefill_of(TINY)
    layout = prefill.layouts[0]
    longest = {"least_merged": 0.01}  # up to half the depth
    for target, every, setting in ((0.2, 5, {}), (0.3, 5, {}), (0.4, 5, {}), (0.65, 36, longest)):
        plan = FrameFusion(flops=target, **setting).plan(prefill)
        alive, counts = plan.real[0], []
        for layer in range(SHAPE.layers):
            if layer in plan.cuts:
                hidden = torch.zeros(len(alive), 8)
                visual = torch.isin(alive, layout.index)
                hidden[:, 0] = 1
                place = torch.searchsorted(layout.index, alive[visual])
                rest = visual.nonzero().squeeze(1)
                hidden[rest, layout.frame[place] % 5 + 1] = 10  # unlike its neighbours in time
                hidden[rest[layout.position[place] % every == layer], 1:] = 0
                scores = torch.arange(len(alive)).float() if layer else None
                alive = plan.select(layer, 0, alive, scores, hidden).kept
            counts.append(len(alive))
        spent = prefill_flops(SHAPE, counts, dict.fromkeys(plan.scored, 1))
        vanilla = prefill_flops(SHAPE, [len(plan.real[0])] * 12)
        assert 0.98 * target * vanilla < spent <= target * vanilla
        assert len(set(counts)) >= 3


# The maths under them.


@given(sizes=st.lists(st.integers(0, 9), min_size=1, max_size=8), share=st.floats(0, 1))
def test_sharing_out(sizes: list[int], share: float) -> None:
    total = round(share * sum(sizes))
    proportional, even = split_in_proportion(total, sizes), split_evenly(total, sizes)
    for shares in (proportional, even):
        assert sum(shares) == total
        assert all(0 <= part <= size for part, size in zip(shares, sizes, strict=True))
    for part, size in zip(proportional, sizes, strict=True):
        assert abs(part - total * size / max(1, sum(sizes))) < 1
    free = [part for part, size in zip(even, sizes, strict=True) if part < size]
    assert not free or max(even) - min(free) <= 1
    assert sum(split_evenly(total + 100, sizes)) == sum(sizes)


@given(length=st.integers(1, 40), share=st.floats(0, 1))
def test_evenly_spaced(length: int, share: float) -> None:
    points = evenly_spaced(round(share * length), length)
    assert (points.diff() > 0).all()
    assert (points < length).all()
    middles = points + points.flip(0) - (length - 1)  # the same from either end, up to rounding
    assert len(points) == 0 or middles.abs().max() <= 1


@given(stays=st.lists(st.booleans(), max_size=9), data=st.data())
def test_kept_and_into(stays: list[bool], data: st.DataObject) -> None:
    roots = [token for token, stay in enumerate(stays) if stay]
    target = st.sampled_from([-1, *roots])
    owner = [token if stay else data.draw(target) for token, stay in enumerate(stays)]
    kept, into = kept_and_into(torch.tensor(owner, dtype=torch.int64))
    assert kept.tolist() == roots
    assert [roots[number] if number >= 0 else -1 for number in into.tolist()] == owner


@given(n=st.integers(1, 12), seed=st.integers(0, 99), neighbours=st.integers(1, 6), repeat=st.booleans())
def test_density_peaks_by_the_book(n: int, seed: int, neighbours: int, repeat: bool) -> None:
    x = torch.randn(n, 3, generator=torch.Generator().manual_seed(seed))
    if repeat:
        x[n // 2 :] = x[0]
    distance = distances(x)
    assert torch.allclose(distance, (x[:, None] - x[None]).norm(dim=-1) / 3**0.5, atol=1e-5)
    squares = [sorted(d * d for d in row)[:neighbours] for row in distance.tolist()]
    density = [math.exp(-sum(near) / len(near)) for near in squares]
    score = density_peaks(distance, neighbours)
    for i in range(n):
        assume(all(squares[i] == squares[j] or abs(density[i] - density[j]) > 1e-6 for j in range(n)))
        ahead = [j for j in range(n) if (-density[j], j) < (-density[i], i)]
        away = min((float(distance[i, j]) for j in ahead), default=float(distance.max()))
        assert float(score[i]) == pytest.approx(density[i] * away, abs=1e-5)


def test_clusters_are_found() -> None:
    generator = torch.Generator().manual_seed(0)
    centre = torch.tensor([[0.0, 0], [10, 0], [0, 10]])
    truth = torch.randint(3, (60,), generator=generator)
    x = centre[truth] + torch.randn(60, 2, generator=generator)
    centres, label = cluster(x, 3, 7)
    assert (label[centres] == torch.arange(3)).all()
    assert torch.equal(truth[centres][label], truth)
    duplicates = torch.ones(5, 4)
    centres, label = cluster(duplicates, 2, 7)
    assert len(set(centres.tolist())) == 2
    assert label[centres].tolist() == [0, 1]


def test_nearest_ignores_length() -> None:
    targets = torch.tensor([[1.0, 0], [0, 0.1]])
    assert nearest(torch.tensor([[9.0, 1], [1, 9], [0, 0]]), targets).tolist() == [0, 1, 0]


# Complete models.


@peers
@pytest.mark.parametrize(("family", "target"), [(FAMILIES[0], 0.6), (FAMILIES[1], 0.85)])
def test_on_a_model(method: Any, family: Any, target: float) -> None:
    model = build(family)
    with method(flops=target)(model) as run, torch.no_grad():
        model.generate(**batch(family, [Prompt(frames=16)]), max_new_tokens=3, do_sample=False)
    assert run.report.flops_ratio <= target
    assert method is PruneVid or run.report.flops_ratio > 0.9 * target
    counts = [layer[0] for layer in run.report.visual_tokens]
    assert counts == sorted(counts, reverse=True)
    assert counts[-1] < 64


@peers
def test_a_batch_on_a_model(method: Any) -> None:
    model = build(FAMILIES[0])
    prompts = [Prompt(frames=12), Prompt(frames=12, question=9, seed=3)]

    def kept(prompts: list[Prompt]) -> list[list[list[int]]]:
        inputs = batch(FAMILIES[0], prompts)
        with method(flops=0.7)(model) as run, torch.no_grad():
            model(**inputs)
        return [
            [(layer[b] - int((inputs["attention_mask"][b] == 0).sum())).tolist() for layer in run.report.kept]
            for b in range(len(prompts))
        ]

    assert kept(prompts) == [kept([prompt])[0] for prompt in prompts]


def test_every_peer_is_found_by_name() -> None:
    assert len(PEERS) == 15
    assert {AdaTP, Vanilla} | set(PEERS) == set(METHODS.values())
    for name, method in METHODS.items():
        assert method.name == name
