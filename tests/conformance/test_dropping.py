"""Dropping equals hiding the dropped columns by masks."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch

import fake_flash
from adatp import AdaTP
from adatp.methods import METHODS, GridError
from adatp.methods.vanilla import Vanilla
from adatp.models import decoder_of
from agreement import Agree
from families import (
    IMAGE,
    VIDEO,
    Prompt,
    VideoLlama3,
    VideoLlama3Whole,
    batch,
    build,
)
from oracle import recorded
from rounding import limit, no_float32_islands
from suite import (
    BY_TOKEN,
    EVERY,
    GREEDY,
    ONE,
    RAGGED,
    STEPS,
    batches,
    dropped,
    engine,
    feature,
    skip_broken_cache,
)

SETTINGS = [
    ("eager", None, torch.float64),
    ("eager", "static", torch.float32),
    ("sdpa", None, torch.float32),
    ("sdpa", "static", torch.float64),
    (fake_flash.NAME, None, torch.float32),
    (fake_flash.NAME, "static", torch.float64),
]
"""Each attention with each cache, in one of two precisions, so that all pairs of values are there. A product
with the precisions shows nothing more: the engine takes from one nothing but its lowest number.
"""


def dropping_cases() -> list[Any]:
    return [
        pytest.param(family, *setting, id="-".join([family.name, *map(str, setting)]))
        for family in EVERY
        for setting in SETTINGS
        if setting[0] in family.attentions
    ]


@pytest.mark.feature("drop")
@batches
@pytest.mark.parametrize(("family", "attention", "cache", "dtype"), dropping_cases())
def test_dropping_equals_masking(
    family: Any,
    attention: str,
    prompts: list[Prompt],
    cache: str | None,
    dtype: torch.dtype,
    monkeypatch: pytest.MonkeyPatch,
    prune: AdaTP,
    agree: Agree,
) -> None:
    skip_broken_cache(family, cache)
    if dtype == torch.float64:
        no_float32_islands(family, monkeypatch)
    model, inputs = build(family, attention, dtype), batch(family, prompts, dtype)
    with prune(model) as run, recorded(model) as record:
        model.generate(**inputs, **GREEDY, cache_implementation=cache)
    assert dropped(run)
    real = inputs["attention_mask"].bool()
    agree.masked(model, record, run.report.kept, real, within=limit(family, dtype))


CONTENT = {"duplicates": "video", "ranking": "both", "shares": "distinct", "prior": "video", "soften": True}


@pytest.mark.parametrize(
    "setting",
    [{}, {"adaptive": True}, {"global_debias": False}, {**CONTENT, "first_layers": 2, "every": 2}],
    ids=str,
)
@pytest.mark.parametrize("relevance", ["embedding", "attention", "none"])
def test_frames_of_any_number_of_tokens(
    relevance: Any, setting: dict[str, Any], prune: AdaTP, agree: Agree
) -> None:
    """Even of none: the last frame's, and all those of a segment."""
    model, inputs = build(VideoLlama3), batch(VideoLlama3, [Prompt(frames=12)])
    mask = inputs["video_compression_mask"].view(12, 16)
    mask[:5] = True
    mask[[6, 11]] = False
    left = (mask.sum(1).tolist(), inputs["input_ids"][0].tolist())
    ids = [token for token in left[1] if token != VIDEO]
    times = [place for place, token in enumerate(ids) if 80 <= token < 88]
    for place, count in sorted(zip(times, left[0], strict=True), reverse=True):
        ids[place + 1 : place + 1] = [VIDEO] * count
    inputs |= {"input_ids": torch.tensor([ids]), "attention_mask": torch.ones(1, len(ids), dtype=torch.int64)}
    method = replace(prune, relevance=relevance, tau_s=1, **setting)
    with method(model) as run, recorded(model) as record:
        model.generate(**inputs, **GREEDY)
    assert run.report.flops_ratio <= method.flops
    assert dropped(run)
    assert run.report.prompt_visual_tokens == [int(mask.sum())]
    agree.masked(model, record, run.report.kept, inputs["attention_mask"].bool(), within=limit(VideoLlama3))
    [notes] = run.report.notes
    assert notes["segments"] == list(range(12))
    if notes["frame_relevance"] is not None:
        assert notes["segment_relevance"] == pytest.approx(notes["frame_relevance"], abs=1e-5)
        assert notes["frame_relevance"][11] == 0
        assert len(set(notes["segment_weights"])) > 2
    [kept] = run.layouts[0].on_grid(run.report.kept[-1][0])
    assert not (kept.flatten(1) & ~mask).any()
    assert 0 < kept.sum() == run.report.visual_tokens[-1][0]


@pytest.mark.parametrize(
    "method", [kind for kind in METHODS.values() if kind.name != "adatp"], ids=lambda m: m.name
)
def test_methods_for_complete_frames_refuse_others_before_the_decoder_runs(method: Any) -> None:
    """All others prune them."""
    model, inputs = build(VideoLlama3), batch(VideoLlama3, [Prompt(frames=8), Prompt(frames=12)])
    complete = batch(VideoLlama3Whole, [Prompt(frames=8)])
    chosen = method() if method is Vanilla else method(flops=0.75)
    with chosen(model) as run, recorded(model) as record:
        if method.complete_frames:
            with pytest.raises(
                GridError, match=f"^{method.name} needs .* one of adatp, vanilla, .*visionzip"
            ):
                model(**inputs)
            assert not record.logits
        else:
            model(**inputs)
            assert all(
                low < high for low, high in zip(*[run.report.visual_tokens[i] for i in (-1, 0)], strict=True)
            ) or (method is Vanilla or run.report.visual_tokens[0] < run.report.prompt_visual_tokens)
            assert method is Vanilla or run.report.flops_ratio <= 0.75
        model(**complete)
    assert method is Vanilla or run.report.flops_ratio <= 0.75
    if method.complete_frames:
        with replace(chosen, flops=1.0)(model):
            model(**inputs)


@feature("images")
def test_images_beside_videos_are_kept(family: Any, agree: Agree) -> None:
    model = build(family)
    inputs = batch(family, ONE)
    ids = inputs["input_ids"][0]
    image, more = family.image()
    inputs["input_ids"] = torch.cat([ids[:2], image, ids[2:]])[None]
    inputs["attention_mask"] = torch.ones_like(inputs["input_ids"])
    inputs.update(more)
    inputs.pop("second_per_grid_ts", None)  # transformers 5.5 would count the image among the videos here
    inputs.update(family.more(inputs["input_ids"]))
    with AdaTP(flops=0.8)(model) as run, recorded(model) as record:
        model.generate(**inputs, **GREEDY)
    assert dropped(run)
    where = (inputs["input_ids"][0] == IMAGE).nonzero().squeeze(1)
    assert all(torch.isin(where.cpu(), layer[0]).all() for layer in run.report.kept)
    agree.masked(model, record, run.report.kept, inputs["attention_mask"].bool(), within=limit(family))


@feature("videos")
def test_several_videos_in_a_prompt(family: Any, prune: AdaTP, agree: Agree) -> None:
    model = build(family)
    one, two = batch(family, [Prompt(seed=1, question=0)]), batch(family, [Prompt(seed=2)])
    texts = ("input_ids", "attention_mask", *BY_TOKEN)
    inputs = {
        name: torch.cat([one[name], two[name]], 1)
        if name in texts
        else family.joined(name, [one[name], two[name]])
        for name in one
    }
    with prune(model) as run, recorded(model) as record:
        model.generate(**inputs, **GREEDY)
    assert dropped(run)
    segments = run.report.to_dict()["samples"][0]["segments"]
    assert segments[8] > segments[7]  # no segment spans two videos
    agree.masked(model, record, run.report.kept, inputs["attention_mask"].bool(), within=limit(family))


@engine
def test_without_a_cache_every_step_is_pruned(family: Any, prune: AdaTP) -> None:
    model, inputs = build(family), batch(family, ONE)
    with prune(model) as run:
        model.generate(**inputs, **GREEDY, use_cache=False)
    assert len(run.reports) == STEPS
    assert all(0.97 * prune.flops < report.flops_ratio <= prune.flops for report in run.reports)


@engine
@pytest.mark.parametrize("reentrant", [False, True], ids=["ragged", "ragged-reentrant"])
def test_dropping_with_gradient_checkpointing(
    family: Any, reentrant: bool, prune: AdaTP, agree: Agree
) -> None:
    """Layers that run again for their gradients run as before; up to transformers 5.5 with their hooks."""
    gradients = []
    for checkpointing in (False, True):
        model, inputs = build(family), batch(family, RAGGED)
        model.train()
        if checkpointing:
            older = model.gradient_checkpointing_enable  # deprecated where there is the other
            getattr(model, "activation_checkpointing_enable", older)({"use_reentrant": reentrant})
        labels = inputs["input_ids"].where(inputs["input_ids"] < 90, -100)
        with prune(model) as run:
            output = model(**inputs, labels=labels, use_cache=False)
            output.loss.backward()
        assert dropped(run)
        model(**inputs, use_cache=False).logits.sum().backward()  # and afterwards as ever
        gradients.append([p.grad for p in decoder_of(model).layers.parameters() if p.grad is not None])
    assert len(gradients[0]) == len(gradients[1]) > 10
    for found, expected in zip(*gradients, strict=True):
        agree(found, expected, within=1e-4 * float(expected.abs().max()))
