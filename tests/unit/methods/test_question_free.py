"""A choice that no question has a say in, for caches that later questions go on with."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import DynamicCache

from adatp import AdaTP
from adatp.relevance import PromptRelevance
from agreement import Agree
from families import ENGINE, FAMILIES, LlavaOnevision, Prompt, batch, build
from oracle import recorded

families = pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.name)

SCENES, LENGTH = 4, 6


def scenes() -> dict[str, Tensor]:
    """A video of still scenes, in each of which something shows for a moment."""
    inputs = batch(LlavaOnevision, [Prompt(frames=SCENES * LENGTH)])
    pixels = inputs["pixel_values_videos"][0]
    for scene in range(SCENES):
        first = scene * LENGTH
        pixels[first : first + LENGTH] = pixels[first].clone()
        pixels[first + 2, :, :8, :8] += 3
    return inputs


def kept_by_scene(run: Any) -> list[int]:
    (layout,) = run.layouts
    kept = torch.isin(layout.index, run.report.kept[-1][0])
    return torch.bincount(layout.frame[kept] // LENGTH, minlength=SCENES).tolist()


def test_a_scene_of_the_second_turn_keeps_its_fair_share(monkeypatch: pytest.MonkeyPatch) -> None:
    """The first question is about the first scene alone; the next may be about any other."""
    model, inputs = build(LlavaOnevision), scenes()
    monkeypatch.setattr(
        PromptRelevance,
        "__call__",
        lambda relevance, _: None if relevance.signal.kind == "none" else torch.arange(24).lt(6).float(),
    )
    monkeypatch.setattr("adatp.methods.debiasing.segments_of", lambda *_: torch.arange(24) // LENGTH)
    shares = {}
    for name, method in {
        "by question": AdaTP(flops=0.4, tau_r=0.2, early="on", even=0.5, survive=0.5),
        "question-free": AdaTP(flops=0.4, question_free=True),
    }.items():
        with method(model) as run, torch.no_grad():
            model(**inputs)
        shares[name] = kept_by_scene(run)
    asked, free = shares["by question"], shares["question-free"]
    assert all(left > 2 * few for left, few in zip(free[1:], asked[1:], strict=True))
    assert min(free) > 0.7 * sum(free) / SCENES  # scenes differ a little in what is distinct in them


def test_the_words_change_nothing() -> None:
    """Not even words that are given, nor those that score."""
    model, noted = build(LlavaOnevision), []
    for question in (1, 2, 3):
        inputs = scenes()
        inputs["input_ids"][0, -7:-1] = torch.arange(6) + 10 * question
        with AdaTP(flops=0.4, question_free=True)(model) as run, torch.no_grad():
            model(**inputs)
        noted.append(run.report.kept[-1][0])
    assert torch.equal(noted[0], noted[1])
    assert torch.equal(noted[0], noted[2])


@families
def test_the_target_is_met_without_scores(family: Any) -> None:
    model = build(family)
    with AdaTP(flops=0.5, question_free=True)(model) as run, torch.no_grad():
        model(**batch(family, [Prompt(frames=12), Prompt(frames=12, question=9, seed=3)]))
    report = run.report
    assert report.flops_ratio <= 0.5
    assert report.relevance == "none"
    assert report.flops.relevance == 0
    assert [note["queries"] for note in report.notes] == [0, 0]
    assert all(layer == report.visual_tokens[0] for layer in report.visual_tokens)
    assert report.visual_tokens[0] < report.prompt_visual_tokens


@pytest.mark.parametrize("family", ENGINE, ids=lambda family: family.name)
@torch.no_grad()
def test_the_next_turn_goes_on_as_if_dropped_tokens_were_hidden(family: Any, agree: Agree) -> None:
    model, first = build(family), batch(family, [Prompt(frames=12)])
    second = family.next_turn(first, batch(family, [Prompt(frames=6, seed=7)]))["input_ids"][:, -7:]
    cache = DynamicCache(config=model.config.get_text_config())
    with AdaTP(flops=0.5, question_free=True)(model) as run, recorded(model) as record:
        model(**first, past_key_values=cache)
        model(input_ids=second, past_key_values=cache)
    kept = [[*layer] for layer in run.report.kept]
    length = first["input_ids"].shape[1]
    assert len(kept[0][0]) < length
    agree.masked(model, record, kept, torch.ones(1, length, dtype=torch.bool), within=1e-5)


@pytest.mark.parametrize(
    "settings",
    [{"relevance": "siglip"}, {"relevance": "attention"}, {"early": "off"}, {"start": 2}, {"end": 3}],
)
def test_settings_that_it_leaves_no_use(settings: dict[str, Any]) -> None:
    ((name, value),) = settings.items()
    with pytest.raises(ValueError, match=f"^question_free=True does not go with {name}={value!r}$"):
        AdaTP(question_free=True, **settings)


def test_settings_that_still_have_one() -> None:
    model, inputs = build(LlavaOnevision), scenes()
    kept = []
    for settings in ({}, {"adaptive": True}, {"global_debias": False}):
        with AdaTP(flops=0.7, question_free=True, **settings)(model) as run, torch.no_grad():
            model(**inputs)
        kept.append(run.report.visual_tokens[0][0])
    assert kept[1] < kept[0] == kept[2]
