"""The method on whole models: what it keeps, what it spends, and what each switch changes."""

from __future__ import annotations

import dataclasses
import json
import math
from typing import Any

import pytest
import torch

from adatp import AdaTP, Report
from adatp.budget import BudgetError
from adatp.encoders import EncoderError
from adatp.methods.adatp import AdaTPPlan
from adatp.pruner import PruningError
from families import FAMILIES, Prompt, batch, build
from flop_counting import flop_counter

families = pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.name)
LONG = Prompt(frames=24, question=8)


def run_once(method: AdaTP, family: Any = FAMILIES[0], prompt: Prompt = LONG, model: Any = None) -> Report:
    model = model or build(family)
    with method(model) as run, torch.no_grad():
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
    with pytest.raises(BudgetError, match=r"out of reach, the lowest is 0\.\d+") as error:
        run_once(AdaTP(flops=0.05), family)
    lowest = float(str(error.value).split("lowest is ")[1].split()[0])
    assert run_once(AdaTP(flops=lowest), family).visual_tokens[-1] == [1]


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
    seen = torch.zeros(len(report.kept[0][0]), dtype=torch.bool)
    seen[report.kept[-1][0]] = True
    return seen[first : first + prompt.frames * 4].view(prompt.frames, 4)


def identical_frames(prompt: Prompt) -> dict[str, torch.Tensor]:
    inputs = batch(FAMILIES[0], [prompt])
    inputs["pixel_values_videos"][:] = inputs["pixel_values_videos"][:, :1]
    return inputs


def test_a_still_video_is_one_segment_and_keeps_one_of_each_position() -> None:
    model, prompt = build(FAMILIES[0]), Prompt(frames=16)
    with AdaTP(flops=0.35, adaptive=True)(model) as run, torch.no_grad():
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
        with AdaTP(flops=0.35, local_debias=local)(model) as run, torch.no_grad():
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


def test_relevance_moves_the_budget() -> None:
    """A segment three deviations more relevant than the rest gets the larger share of a scarce budget."""
    model = build(FAMILIES[0])
    method = AdaTP(flops=0.5, tau_s=1.0, tau_r=0.5)
    with method(model) as run, torch.no_grad():
        run._frame_relevance = lambda sample, *_: torch.arange(24) == 5  # type: ignore[method-assign]
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
        ({"tau_r": 0}, "tau_r must be above 0"),
        ({"max_queries": 0}, "max_queries"),
        ({"relevance": "clip"}, "relevance must be one of auto, siglip"),
    ],
)
def test_settings_that_make_no_sense(setting: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        AdaTP(**setting)


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
    with pytest.raises(PruningError, match="pass the processor"):
        AdaTP(relevance="siglip")(model).__enter__()
    assert not any(module._forward_pre_hooks for module in model.modules())


@families
def test_a_report_is_plain_json(family: Any) -> None:
    model = build(family)
    with AdaTP(flops=0.5)(model) as run:
        model.generate(**batch(family, [LONG, LONG]), max_new_tokens=5, min_new_tokens=5, do_sample=False)
    told = json.loads(run.report.to_json())
    assert told["method"] == "adatp"
    assert told["settings"]["flops"] == 0.5
    assert told["kept"][-1][1] == run.report.kept[-1][1].tolist()
    assert told["decode_steps"] == 4
    assert told["flops_ratio"] == run.report.flops_ratio
    assert set(told["milliseconds"]) == {"vision", "relevance", "prefill", "decode"}
    assert told["flops"]["decode"] < told["flops"]["decode_vanilla"]
    assert told["flops"]["request"] < told["flops"]["request_vanilla"]
    assert "visual tokens" in str(run.report)


def test_ties_go_to_the_earlier_token() -> None:
    """Equal scores everywhere: the choice is fixed, whatever the device's sort does."""
    from adatp.flops import DecoderShape
    from adatp.layout import build_layouts
    from adatp.methods.base import Prefill

    ids = torch.tensor([[1] + [9] * 24 + [2, 3]])
    (layout,) = build_layouts(ids, ids > 0, [(6, 2, 2)], video_token_id=9)
    shape = DecoderShape.from_config(FAMILIES[0].config().text_config)
    prefill = Prefill(shape, [layout], lambda _: torch.ones(6, 4), lambda _: None)
    plan = AdaTP(flops=0.6, start=2, end=3).plan(prefill)
    assert isinstance(plan, AdaTPPlan)
    alive = plan.real[0]
    kept = plan.select(2, 0, alive, torch.zeros(len(alive)))
    visual = len(kept) - 3
    assert kept.tolist() == [0, *range(1, visual + 1), 25, 26]
