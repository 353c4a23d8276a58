"""The method on complete models: what it keeps, what it spends, and what each switch changes."""

from __future__ import annotations

import dataclasses
import json
import math
from typing import Any

import pytest
import torch
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from adatp import AdaTP, Report
from adatp.adatp_steps.coverage import pick
from adatp.budget import BudgetError
from adatp.encoders import EncoderError
from adatp.errors import AdaTPError
from adatp.flops import DecoderShape
from adatp.layout import PromptCounts, build_layouts
from adatp.methods.selection import allocate
from adatp.methods.token_plan import TokenPlan
from adatp.prefill import Prefill
from adatp.relevance import PromptRelevance
from families import ENGINE, FAMILIES, Prompt, batch, build
from flop_counting import flop_counter

families = pytest.mark.parametrize("family", ENGINE, ids=lambda family: family.name)
LONG = Prompt(frames=24, question=8)


def run_once(method: AdaTP, family: Any = FAMILIES[0], prompt: Prompt = LONG, model: Any = None) -> Report:
    model = model or build(family)
    with method(model, strict=True) as run, torch.no_grad():
        model(**batch(family, [prompt]))
    return run.report


def kept_tokens(report: Report, layer: int = -1) -> set[int]:
    return set(report.kept[layer][0].tolist())


@families
@pytest.mark.parametrize("target", [0.9, 0.5, 0.35])
def test_the_flops_target_is_met_from_below(family: Any, target: float) -> None:
    report = run_once(AdaTP(flops=target), family)
    assert 0.98 * target < report.flops_ratio <= target
    counts = [layer[0] for layer in report.visual_tokens]
    assert counts == sorted(counts, reverse=True)
    assert counts == report.notes[0]["schedule"]
    for earlier, later in zip(report.kept, report.kept[1:], strict=False):
        assert set(later[0].tolist()) <= set(earlier[0].tolist())


@families
@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@pytest.mark.parametrize("target", [1.0, 0.5])
def test_flops_are_those_that_torch_counts(family: Any, attention: str, target: float) -> None:
    """Of the decoder layers, scoring included; wide enough that what is counted outweighs what is not."""
    config = family.config()
    text = config.text_config
    text.hidden_size, text.intermediate_size, text.num_attention_heads = 128, 256, 4
    if hasattr(config.vision_config, "out_hidden_size"):
        config.vision_config.out_hidden_size = 128
        text.rope_parameters["mrope_section"] = [4, 6, 6]
    config._attn_implementation = attention
    torch.manual_seed(0)
    model = family.model_class(config).eval()
    decoder = model.get_decoder()
    with AdaTP(flops=target)(model) as run, torch.no_grad():
        counter = flop_counter()
        begin = decoder.register_forward_pre_hook(lambda *_: counter.__enter__() and None)
        end = decoder.register_forward_hook(lambda *_: counter.__exit__(None, None, None))
        model(**batch(family, [Prompt(frames=40)]))
        counted = counter.get_total_flops()
        begin.remove()
        end.remove()
    assert counted == pytest.approx(run.report.flops.decoder, rel=0.01)
    assert run.report.flops_ratio <= target


@families
def test_an_unreachable_target_names_the_lowest(family: Any) -> None:
    for early in ("auto", "on", "off"):
        with pytest.raises(BudgetError, match=r"out of reach, the lowest is 0\.\d+") as error:
            run_once(AdaTP(flops=0.01, early=early), family)
        lowest = error.value.lowest
        assert lowest is not None
        counts = run_once(AdaTP(flops=lowest, early=early), family).visual_tokens
        assert counts[-1] == [1]
        assert counts[0] == ([24 * family.tokens_a_frame] if early == "off" else [1])


def test_the_first_layers_read_everything() -> None:
    report = run_once(AdaTP(flops=0.6, start=2, end=4))
    counts = [layer[0] for layer in report.visual_tokens]
    assert counts[0] == counts[1] == 96 > counts[2] > counts[3] > counts[4] == counts[5]


def test_words_are_never_dropped() -> None:
    report = run_once(AdaTP(flops=0.35))
    words = len(report.kept[0][0]) - report.visual_tokens[0][0]
    assert all(
        len(layer[0]) - n[0] == words for layer, n in zip(report.kept, report.visual_tokens, strict=True)
    )


def grid(report: Report, prompt: Prompt) -> torch.Tensor:
    """(frames, positions) bool: what the last layer kept; LLaVA-OneVision's prompts."""
    first = prompt.before + 1
    observed = torch.zeros(len(report.kept[0][0]), dtype=torch.bool)
    observed[report.kept[-1][0]] = True
    return observed[first : first + prompt.frames * 4].view(prompt.frames, 4)


def identical_frames(prompt: Prompt) -> dict[str, torch.Tensor]:
    inputs = batch(FAMILIES[0], [prompt])
    inputs["pixel_values_videos"][:] = inputs["pixel_values_videos"][:, :1]
    return inputs


def test_a_still_video_is_one_segment_and_keeps_one_of_each_position() -> None:
    model, prompt = build(FAMILIES[0]), Prompt(frames=16)
    with AdaTP(flops=0.35, adaptive=True, early="off")(model) as run, torch.no_grad():
        model(**identical_frames(prompt))
    assert run.report.notes[0]["segments"] == [0] * 16
    assert run.report.visual_tokens[-1][0] <= 4
    assert grid(run.report, prompt).sum(0).max() <= 1
    assert run.report.flops_ratio < 0.35  # at most: what is redundant is not kept to fill the budget


def test_local_debiasing_spreads_over_positions() -> None:
    """On a still video attention alone prefers one position in many frames."""
    model, prompt = build(FAMILIES[0]), Prompt(frames=16)
    kept = {}
    for local in (True, False):
        with AdaTP(flops=0.35, local_debias=local, early="off")(model) as run, torch.no_grad():
            model(**identical_frames(prompt))
        kept[local] = grid(run.report, prompt).sum(0)
    assert kept[True].sum() == kept[False].sum()
    assert kept[True].max() - kept[True].min() <= 1
    assert kept[False].max() - kept[False].min() > 1


def test_global_debiasing_leaves_no_segment_blind() -> None:
    """Frames of their own segment each: with the budget split, all keep a token; by attention alone, not."""
    alone = run_once(AdaTP(flops=0.5, global_debias=False, local_debias=False))
    split = run_once(AdaTP(flops=0.5, tau_s=1.0, relevance="none"))
    segments = len(set(split.notes[0]["segments"]))
    assert segments == LONG.frames
    frames = grid(split, LONG).any(1).sum()
    assert frames == min(segments, split.visual_tokens[-1][0])
    assert grid(alone, LONG).any(1).sum() < frames
    assert alone.visual_tokens == split.visual_tokens


def test_relevance_moves_the_budget(monkeypatch: pytest.MonkeyPatch) -> None:
    """A segment three deviations more relevant than the rest gets the larger share of a scarce budget."""
    model = build(FAMILIES[0])
    method = AdaTP(flops=0.5, tau_s=1.0, tau_r=0.5)
    monkeypatch.setattr(PromptRelevance, "__call__", lambda *_: torch.arange(24) == 5)
    with method(model) as run, torch.no_grad():
        model(**batch(FAMILIES[0], [LONG]))
    frames = grid(run.report, LONG).sum(1)
    assert frames[5] == frames.max() > frames.float().mean()
    assert run.report.notes[0]["segment_relevance"][5] == 1


@families
@pytest.mark.parametrize("relevance", ["auto", "embedding", "attention", "none"])
def test_relevance_signals(family: Any, relevance: Any) -> None:
    report = run_once(AdaTP(flops=0.5, relevance=relevance), family)
    assert report.relevance == ("embedding" if relevance == "auto" else relevance)
    assert (report.notes[0]["segment_relevance"] is None) == (relevance in ("none", "attention"))
    assert report.flops_ratio <= 0.5


@pytest.mark.parametrize(
    "switch",
    [
        {"global_debias": False},
        {"local_debias": False},
        {"adaptive": True},
        {"relevance": "none"},
        {"max_queries": 1},
    ],
    ids=str,
)
def test_every_step_can_be_switched_off(switch: dict[str, Any]) -> None:
    model = build(FAMILIES[0])
    with_all = run_once(AdaTP(flops=0.6, tau_s=0.5), model=model)
    without = run_once(AdaTP(flops=0.6, tau_s=0.5, **switch), model=model)
    assert kept_tokens(without) != kept_tokens(with_all)
    assert without.flops_ratio <= 0.6


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"flops": 0}, "in \\(0, 1\\], not 0"),
        ({"flops": -1}, "in \\(0, 1\\]"),
        ({"flops": 1.5}, "in \\(0, 1\\]"),
        ({"flops": math.nan}, "not nan"),
        ({"tau_s": 2}, "tau_s is a cosine"),
        ({"tau_d": -2}, "tau_d is a cosine"),
        ({"early": True}, "early must be one of auto, on, off"),
        ({"tau_r": 0}, "tau_r must be above 0"),
        ({"max_queries": 0}, "max_queries"),
        ({"max_queries": 1.5}, "max_queries is a whole number, not 1.5"),
        ({"start": "2"}, "start is a whole number, not '2'"),
        ({"survive": math.nan}, "survive is a share"),
        ({"keep": 0.5}, "keep needs early"),
        ({"adaptive": "off"}, "adaptive is true or false, not 'off'"),
        ({"soften": 1}, "soften is true or false, not 1"),
        ({"flops": "0.3"}, "flops is a number, not '0.3'"),
        ({"flops": True}, "flops is a number, not True"),
        ({"tau_s": None}, "tau_s is a number, not None"),
        ({"relevance": "clip"}, "relevance must be one of auto, siglip"),
    ],
)
def test_settings_that_make_no_sense(setting: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message) as error:
        AdaTP(**setting)
    assert isinstance(error.value, AdaTPError)


@pytest.mark.parametrize("setting", [{"start": 0}, {"end": 6}, {"start": 4, "end": 3}], ids=str)
def test_layers_that_make_no_sense(setting: dict[str, Any]) -> None:
    with (
        pytest.raises(BudgetError, match="need 1 <= start <= end < 6"),
        AdaTP(flops=0.5, **setting)(build(FAMILIES[0])),
    ):
        pass


def test_keeping_all_asks_nothing_of_the_depth() -> None:
    config = FAMILIES[0].config()
    config.text_config.num_hidden_layers, config.text_config.layer_types = 1, ["full_attention"]
    model = FAMILIES[0].model_class(config).eval()
    assert run_once(AdaTP(flops=1.0), model=model).flops_ratio == 1
    with pytest.raises(BudgetError, match="need 1 <= start <= end < 1 layers"):
        run_once(AdaTP(flops=0.9), model=model)


def test_a_frozen_dataclass() -> None:
    method = AdaTP(flops=0.5)
    assert method == AdaTP(flops=0.5)
    assert hash(method) == hash(AdaTP(flops=0.5))
    with pytest.raises(dataclasses.FrozenInstanceError):
        method.flops = 0.3  # type: ignore[misc]
    assert dataclasses.replace(method, flops=0.3) == AdaTP(flops=0.3)


def test_siglip_without_a_partner_or_words_is_refused() -> None:
    model = build(FAMILIES[0])
    with pytest.raises(EncoderError, match="no SigLIP text encoder is known"):
        AdaTP(relevance="siglip")(model, question="what?").__enter__()
    with pytest.raises(EncoderError, match="pass the processor"):
        AdaTP(relevance="siglip")(model).__enter__()
    assert not any(module._forward_pre_hooks for module in model.modules())


@families
def test_a_report_is_plain_json(family: Any) -> None:
    model = build(family)
    with AdaTP(flops=0.5)(model) as run:
        model.generate(**batch(family, [LONG, LONG]), max_new_tokens=5, min_new_tokens=5, do_sample=False)
    noted = json.loads(run.report.to_json())
    assert noted["method"] == "adatp"
    assert noted["settings"]["flops"] == 0.5
    assert noted["kept"][-1][1] == run.report.kept[-1][1].tolist()
    assert noted["decode_steps"] == 4
    assert noted["flops_ratio"] == run.report.flops_ratio
    assert set(noted["milliseconds"]) == {"vision", "relevance", "prefill", "pruning", "decode"}
    assert 0 < noted["milliseconds"]["pruning"] < noted["milliseconds"]["prefill"]
    assert noted["flops"]["decode"] < noted["flops"]["decode_vanilla"]
    assert noted["flops"]["request"] < noted["flops"]["request_vanilla"]
    assert "visual tokens" in str(run.report)


def test_ties_go_to_the_earlier_token() -> None:
    """Equal scores everywhere: the choice is fixed, whatever the device's sort does."""
    ids = torch.tensor([[1] + [9] * 24 + [2, 3]])
    (layout,) = build_layouts(ids, ids > 0, [(6, 2, 2)], video_token_id=9)
    shape = DecoderShape.from_config(FAMILIES[0].config().text_config)
    prefill = Prefill(
        shape=shape,
        layouts=[layout],
        frame_features=lambda _: torch.ones(6, 4),
        relevance=lambda _: None,
        tower_attention=lambda _: torch.ones(24),
    )
    plan = AdaTP(flops=0.6, start=2, end=3).plan(prefill)
    assert isinstance(plan, TokenPlan)
    alive = plan.real[0]
    kept = plan.select(2, 0, alive, torch.zeros(len(alive)), torch.zeros(len(alive), 8)).kept
    visual = len(kept) - 3
    assert kept.tolist() == [0, *range(1, visual + 1), 25, 26]


# --- the early stage --------------------------------------------------------------------------------------


def clip_with_a_flash(prompt: Prompt, frame: int) -> dict[str, torch.Tensor]:
    """A still video, in one quarter of which something shows for one frame."""
    inputs = identical_frames(prompt)
    inputs["pixel_values_videos"][0, frame, :, :8, 8:] += 3
    return inputs


def test_a_flash_survives_the_early_stage() -> None:
    """Among 96 tokens with room for about one of each frame, in one segment."""
    model, prompt = build(FAMILIES[0]), Prompt(frames=24)
    method = AdaTP(flops=0.25, early="on", tau_s=-1.0)
    with method(model) as run, torch.no_grad():
        model(**clip_with_a_flash(prompt, 13))
    assert run.report.notes[0]["early"]
    assert run.report.notes[0]["segments"] == [0] * 24
    first = prompt.before + 1
    read = run.report.kept[0][0] - first
    read = read[(read >= 0) & (read < 96)]
    assert len(read) <= 40
    assert set(range(24)) == set((read // 4).tolist())  # of each frame something
    assert 13 * 4 + 1 in read  # what flashes in its corner


def test_early_duplicates_are_not_read_while_something_else_is_new() -> None:
    """Two still scenes, one five times as long: each has the four tokens of its first frame to tell."""
    model, prompt = build(FAMILIES[0]), Prompt(frames=24)
    inputs = identical_frames(prompt)
    inputs["pixel_values_videos"][0, 20:] = torch.randn(3, 16, 16, generator=torch.Generator().manual_seed(5))
    method = AdaTP(flops=0.14, early="on", relevance="none", adaptive=True)
    with method(model) as run, torch.no_grad():
        model(**inputs)
    assert run.report.notes[0]["segments"] == [0] * 20 + [1] * 4
    read = run.report.kept[0][0] - prompt.before - 1
    assert read[(read >= 0) & (read < 96)].tolist() == [0, 1, 2, 3, 80, 81, 82, 83]


def test_auto_drops_early_only_where_the_target_needs_it() -> None:
    def early(flops: float) -> bool:
        return bool(run_once(AdaTP(flops=flops), prompt=Prompt(frames=60)).notes[0]["early"])

    assert [early(flops) for flops in (0.9, 0.6, 0.35, 0.2)] == [False, False, True, True]


def test_the_early_stage_at_the_papers_budget() -> None:
    shape = DecoderShape(28, 3584, 28, 4, 128, 18944, 152064)  # Qwen2-7B, 32 frames
    prompt = PromptCounts(6272, 30, 16)
    auto, off, on = (AdaTP(early=early).schedule(shape, prompt) for early in ("auto", "off", "on"))
    assert auto == on
    assert off.visual[0] == 6272 > on.visual[0]
    half = AdaTP(flops=0.5).schedule(shape, prompt)
    assert half == AdaTP(flops=0.5, early="off").schedule(shape, prompt)
    low = AdaTP(flops=0.05).schedule(shape, prompt)
    assert 0.0495 < low.ratio <= 0.05
    with pytest.raises(BudgetError, match="out of reach"):
        AdaTP(flops=0.05, early="off").schedule(shape, prompt)


@families
@pytest.mark.parametrize("target", [0.5, 0.35, 0.2])
def test_the_target_is_met_from_below_with_the_early_stage(family: Any, target: float) -> None:
    report = run_once(AdaTP(flops=target, early="on"), family, Prompt(frames=60))
    assert 0.98 * target < report.flops_ratio <= target
    counts = [n for (n,) in report.visual_tokens]
    assert counts == report.notes[0]["schedule"]
    assert report.prompt_visual_tokens[0] == 60 * family.tokens_a_frame > counts[0] > counts[-1]


@pytest.mark.parametrize(
    "switch", [{"global_debias": False}, {"adaptive": True}, {"relevance": "attention"}], ids=str
)
def test_the_early_stage_with_other_steps_off(switch: dict[str, Any]) -> None:
    model = build(FAMILIES[0])
    report = run_once(AdaTP(flops=0.4, early="on", **switch), model=model)
    assert report.notes[0]["early"]
    assert report.flops_ratio <= 0.4
    assert report.visual_tokens[0][0] < 96


def test_adaptive_reads_no_duplicate() -> None:
    model, prompt = build(FAMILIES[0]), Prompt(frames=24)
    with AdaTP(flops=0.5, early="on", adaptive=True)(model) as run, torch.no_grad():
        model(**identical_frames(prompt))
    assert run.report.visual_tokens[0] == [4]


def test_the_early_stage_treats_every_video_of_a_prompt_as_its_own() -> None:
    """With shares that content does not move, another second video changes nothing in the first."""
    ids = torch.tensor([[1] + [9] * 24 + [2] + [9] * 18 + [2, 3]])
    (layout,) = build_layouts(ids, ids > 0, [(6, 2, 2), (2, 3, 3)], video_token_id=9)
    shape = DecoderShape.from_config(FAMILIES[0].config().text_config)
    prefill = Prefill(
        shape=shape,
        layouts=[layout],
        frame_features=lambda _: torch.ones(8, 4),
        relevance=lambda _: None,
        tower_attention=lambda _: torch.ones(42),
    )
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(46, 8, generator=generator)
    kept = []
    for _ in range(2):
        plan = AdaTP(flops=0.3, early="on", even=1.0).plan(prefill)
        assert plan is not None
        kept.append(set(plan.select(0, 0, plan.real[0], None, hidden).kept.tolist()))
        hidden[26:44] = torch.randn(18, 8, generator=generator)
    first, second = ({each for each in some if 1 <= each < 25} for some in kept)
    assert first == second
    assert kept[0] != kept[1]
    assert kept[0] >= {0, 25, 44, 45}


@given(
    videos=st.lists(
        st.tuples(st.integers(1, 5), st.integers(1, 3), st.integers(1, 3)), min_size=1, max_size=2
    ),
    full=st.sampled_from([0.4, 0.7, 1.0]),
    seed=st.integers(0, 999),
    adaptive=st.booleans(),
    even=st.sampled_from([0.5, 1.0]),
)
@example(
    videos=[(2, 3, 3), (5, 3, 3)], full=1.0, seed=0, adaptive=True, even=0.5
)  # a budget with room for all
@settings(max_examples=60, deadline=None)
def test_the_early_stage_by_plain_loops_where_cells_have_no_token(
    videos: list[Any], full: float, seed: int, adaptive: bool, even: float
) -> None:
    """Each token is compared with those that there are before it, at its position of its segment."""
    generator = torch.Generator().manual_seed(seed)
    there_by_cell = [torch.rand(t * r * c, generator=generator) < full for t, r, c in videos]
    for present in there_by_cell:
        present[0] = True  # a video without any token is none
    cells = [present.nonzero().squeeze(1) for present in there_by_cell]
    count, frames = sum(map(len, cells)), sum(t for t, _, _ in videos)
    assume(count > 3)
    ids = torch.tensor([[1] + [9] * count + [2, 3]])
    (layout,) = build_layouts(ids, ids > 0, videos, video_token_id=9, cells=cells)
    of_frame = torch.randint(2, (frames,), generator=generator)
    method = AdaTP(flops=0.6, early="on", adaptive=adaptive, even=even)
    prefill = Prefill(
        shape=DecoderShape.from_config(FAMILIES[0].config().text_config),
        layouts=[layout],
        frame_features=lambda _: torch.eye(2)[of_frame],
        relevance=lambda _: None,
        tower_attention=lambda _: torch.ones(count),
    )
    hidden = torch.randn(count + 3, 8, generator=generator)
    kinds = torch.randn(2, 8, generator=generator)
    similar = torch.rand(count + 3, generator=generator) < 0.7
    hidden[similar] = (
        kinds[torch.randint(2, (int(similar.sum()),), generator=generator)] + 0.1 * hidden[similar]
    )
    try:
        plan = method.plan(dataclasses.replace(prefill, strict=True))
    except BudgetError:
        assume(False)
    assert plan is not None
    notes = plan.notes()[0]
    keep, segment = notes["schedule"][0], torch.tensor(notes["segments"])[layout.frame]
    tokens = torch.nn.functional.normalize(hidden[layout.index], dim=-1)
    noted = [False] * count
    for token in range(count):
        before = [
            other
            for other in range(token)
            if noted[other]
            and segment[other] == segment[token]
            and layout.position[other] == layout.position[token]
        ]
        closest = max([float(tokens[token] @ tokens[other]) for other in before], default=-2)
        assume(abs(closest - method.tau_d) > 1e-4)
        noted[token] = closest < method.tau_d
    sizes = torch.zeros(int(max(notes["segments"])) + 1, dtype=torch.int64).index_add_(
        0, segment, torch.tensor(noted).long()
    )
    weights, there = torch.ones(len(sizes)), segment.bincount(minlength=len(sizes))
    most = sizes if adaptive else there
    share = allocate(there, weights, max(int(keep * even), min(keep, len(sizes))), capacity=most)
    share += allocate(sizes, weights, keep - int(share.sum()), floor=0, capacity=most - share)
    ranks, gains = [], []
    for video, (t, r, c) in enumerate(videos):
        frames_of = hidden.new_zeros(t * r * c, 8)
        frames_of[cells[video]] = hidden[layout.index[layout.video == video]]
        rank, gain = pick(frames_of.view(t, r * c, 8), there_by_cell[video].view(t, r * c), r * c)
        ranks.append(rank.flatten()[cells[video]])
        gains.append(gain.flatten()[cells[video]])
    gain = torch.cat(gains)
    score = gain / (1 + gain.max()) - torch.cat(ranks) - 99 * (adaptive & ~torch.tensor(noted))
    kept = plan.select(0, 0, plan.real[0], None, hidden).kept
    chosen = torch.isin(layout.index, kept)
    assert torch.equal(segment[chosen].bincount(minlength=len(sizes)), share)
    for number in range(len(sizes)):  # equal scores may go either way
        own = segment == number
        if chosen[own].any() and not chosen[own].all():
            assert score[own & chosen].min() >= score[own & ~chosen].max() - 1e-4
