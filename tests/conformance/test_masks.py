"""Masks as callers make them: of four dimensions, of a turn's new tokens alone, with a sink."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import DynamicCache, StaticCache

from adatp import AdaTP
from adatp.methods import FastV
from agreement import Agree
from families import Gemma3, LlavaOnevision, Prompt, batch, build
from suite import LATE, ONE, RAGGED, dropped, engine

LOWEST = torch.finfo(torch.float32).min


def full_mask(real: Tensor, hidden: float | None, pads_see_themselves: bool) -> Tensor:
    """(B, 1, L, L): causal, nobody sees padding; boolean if ``hidden`` is None."""
    length = real.shape[1]
    allowed = torch.ones(length, length, dtype=torch.bool).tril() & real[:, None]
    if pads_see_themselves:
        allowed = allowed | torch.eye(length, dtype=torch.bool)
    if hidden is None:
        return allowed[:, None]
    return torch.zeros(allowed.shape).masked_fill(~allowed, hidden)[:, None]


@pytest.mark.parametrize("own", [False, True], ids=["blind-pads", "pads-see-themselves"])
@pytest.mark.parametrize("hidden", [None, LOWEST, -torch.inf], ids=["boolean", "lowest", "infinite"])
@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@torch.no_grad()
def test_a_mask_of_single_queries_is_read_as_one_of_padding(
    attention: str, hidden: float | None, own: bool, prune: AdaTP, agree: Agree
) -> None:
    if attention == "eager" and not hidden:
        pytest.skip("transformers adds masks to the logits there")
    if attention == "eager" and hidden == -torch.inf and not own:
        pytest.skip("eager attention itself makes no numbers of that, pruned or not")
    model, inputs = build(LlavaOnevision, attention), batch(LlavaOnevision, RAGGED)
    real = inputs.pop("attention_mask").bool()
    positions = (real.cumsum(1) - 1).clamp(min=0)
    with prune(model) as run:
        expected = model(**inputs, attention_mask=real.long(), position_ids=positions).logits
        found = model(**inputs, attention_mask=full_mask(real, hidden, own), position_ids=positions).logits
    assert dropped(run)
    for layer, again in zip(run.reports[0].kept, run.reports[1].kept, strict=True):
        assert all(torch.equal(*pair) for pair in zip(layer, again, strict=True))
    assert run.reports[1].prompt_tokens == run.reports[0].prompt_tokens == real.sum(1).tolist()
    agree(found[:, -1], expected[:, -1], within=1e-5)


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
            mask = full_mask(real, LOWEST, pads_see_themselves=False)
            mask[:, :, 1:, 0] = logits
            model(**inputs, attention_mask=mask)
            kept.append([layer[0].tolist() for layer in run.report.kept])
    assert len(kept[0][-1]) < len(kept[0][0])
    assert kept[2] == kept[1] == kept[0]
