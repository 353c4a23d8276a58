"""Masks as callers make them: of four dimensions, of a turn's new tokens alone, with a sink."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from transformers import DynamicCache, StaticCache

from adatp import AdaTP
from adatp.methods import FastV
from agreement import Agree
from families import Gemma3, LlavaOnevision, Prompt, batch, build
from masks import LOWEST, per_query
from rounding import limit
from suite import LATE, ONE, RAGGED, dropped, engine


@pytest.mark.parametrize("pads", ["nothing", "themselves", "everything"])
@pytest.mark.parametrize("hidden", [None, LOWEST, -torch.inf], ids=["boolean", "lowest", "infinite"])
@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@torch.no_grad()
def test_a_mask_of_single_queries_is_read_as_one_of_padding(
    attention: str, hidden: float | None, pads: str, prune: AdaTP, agree: Agree
) -> None:
    if attention == "eager" and not hidden:
        pytest.skip("transformers adds masks to the logits there")
    if attention == "eager" and hidden == -torch.inf and pads == "nothing":
        pytest.skip("eager attention itself makes no numbers of that, pruned or not")
    model, inputs = build(LlavaOnevision, attention), batch(LlavaOnevision, RAGGED)
    real = inputs.pop("attention_mask").bool()
    positions = (real.cumsum(1) - 1).clamp(min=0)
    with prune(model) as run:
        expected = model(**inputs, attention_mask=real.long(), position_ids=positions).logits
        found = model(
            **inputs, attention_mask=per_query(real, pads, 0, hidden), position_ids=positions
        ).logits
    assert dropped(run)
    for layer, again in zip(run.reports[0].kept, run.reports[1].kept, strict=True):
        assert all(torch.equal(*pair) for pair in zip(layer, again, strict=True))
    assert run.reports[1].prompt_tokens == run.reports[0].prompt_tokens == real.sum(1).tolist()
    agree(found[:, -1], expected[:, -1], within=1e-5)


@pytest.mark.parametrize("pads", ["nothing", "what comes before", "that and themselves", "everything"])
@torch.no_grad()
def test_a_second_turn_under_a_mask_of_single_queries(pads: str, prune: AdaTP, agree: Agree) -> None:
    """Padding between the turns is none of the text, whatever it attends to."""
    model = build(LlavaOnevision)
    after = [Prompt(frames=6, seed=7 + number, question=5 + number) for number in range(3)]
    turns = [batch(LlavaOnevision, prompts) for prompts in (RAGGED, after)]
    real = torch.cat([turn.pop("attention_mask") for turn in turns], 1).bool()
    positions = (real.cumsum(1) - 1).clamp(min=0)
    middle = turns[0]["input_ids"].shape[1]
    noted = []
    for single in (False, True):
        cache = DynamicCache(config=model.config.get_text_config())
        with prune(model) as run:
            for turn, begin, end in zip(turns, (0, middle), (middle, real.shape[1]), strict=True):
                mask = per_query(real[:, :end], pads, begin, LOWEST) if single else real[:, :end].long()
                given = {"attention_mask": mask, "position_ids": positions[:, begin:end]}
                logits = model(**turn, **given, past_key_values=cache).logits
        kept = [[row.tolist() for row in layer] for layer in run.report.kept]
        noted.append((logits[:, -1], kept, run.report.prompt_tokens, run.report.flops.decoder))
    agree(noted[1][0], noted[0][0], within=limit(LlavaOnevision))
    assert noted[1][1:] == noted[0][1:]


@engine
@pytest.mark.parametrize("static", [False, True], ids=["dynamic", "static"])
@pytest.mark.parametrize("video", [False, True], ids=["text", "another-video"])
@torch.no_grad()
def test_a_second_turn_whose_mask_covers_the_new_tokens_alone(
    family: Any, video: bool, static: bool, prune: AdaTP, agree: Agree
) -> None:
    """It means that all cached tokens are visible."""
    for attention in family.attentions:
        model, first = build(family, attention), batch(family, [Prompt(seed=1)])
        second = family.next_turn(first, batch(family, [Prompt(frames=6, seed=7)]))
        if not video:
            second = {"input_ids": second["input_ids"][:, -7:]}
        config = model.config.get_text_config()
        caches = [StaticCache(config, 400) if static else DynamicCache(config=config) for _ in range(2)]
        new, old = second["input_ids"].shape[1], first["input_ids"].shape[1]
        if family.multimodal_rope:  # transformers' own positions take such masks in no version
            rows = torch.arange(old, old + new)
            second["position_ids"] = family.position(rows[None])
        with prune(model) as run:
            logits = []
            for cache, observed in zip(caches, (old + new, new), strict=True):
                model(**first, past_key_values=cache)
                mask = torch.ones(1, observed, dtype=torch.int64)
                logits.append(model(**second, attention_mask=mask, past_key_values=cache).logits)
        assert len(run.reports) == 2 + 2 * video
        if family is not Gemma3:  # whose model reads the mask before the decoder does, as unpruned
            agree(logits[1], logits[0])


@pytest.mark.parametrize("method", [LATE, FastV(flops=0.5)], ids=["adatp", "fastv"])
@torch.no_grad()
def test_tokens_beside_a_sink_are_still_ordered(method: Any) -> None:
    """However far above all others one token's logits are."""
    model, inputs = build(LlavaOnevision, "eager"), batch(LlavaOnevision, ONE)
    real = inputs.pop("attention_mask").bool()
    kept = []
    with method(model) as run:
        for logits in (30.0, 300.0, 3000.0):  # at 30 single precision still tells the others apart
            mask = per_query(real, "nothing", 0, LOWEST)
            mask[:, :, 1:, 0] = logits
            model(**inputs, attention_mask=mask)
            kept.append([layer[0].tolist() for layer in run.report.kept])
    assert len(kept[0][-1]) < len(kept[0][0])
    assert kept[2] == kept[1] == kept[0]
