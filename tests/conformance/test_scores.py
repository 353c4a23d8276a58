"""The scores that tokens are chosen by are rows of eager attention, in the tower as well."""

from __future__ import annotations

import sys
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor
from transformers import DynamicCache, Gemma2Config

from adatp import AdaTP
from adatp.budget import Schedule
from adatp.flops import DecoderShape
from adatp.methods.token_plan import Cut, Rule
from adatp.methods.vanilla import Vanilla
from adatp.prefill import Prefill
from agreement import Agree
from families import (
    VIDEO,
    LlavaOnevision,
    Prompt,
    Qwen25VL,
    batch,
    build,
)
from more_families import MORE, Gemma4
from oracle import hidden_columns, seeing_each_other
from rounding import limit
from suite import LATE, RAGGED, feature, shape_of
from test_merging import Merge


def attentions_scored_first(model: Any, run: Any, output: Any) -> Tensor:
    """Of an eager run's attentions those of the layer that a pruned run scores first."""
    shape = shape_of(model)
    scored = min(run.method.scored_layers(shape))
    return output.attentions[shape.key_layers.index(scored)]  # linear attention has none


@feature("scores", every_attention=True)
@torch.no_grad()
def test_scores_equal_eager_rows(
    family: Any, attention: str, first_scores: Any, prune: AdaTP, agree: Agree
) -> None:
    """What the layer scored first sees is known: its scores are rows of eager attention."""
    inputs = batch(family, RAGGED)
    model = build(family, attention)
    with prune(model) as run:
        model(**inputs)
    eager, real = build(family, "eager"), inputs["attention_mask"].bool()
    types = seeing_each_other(eager, inputs)
    with hidden_columns(eager, run.report.kept, real.shape[1], real, types):
        rows = attentions_scored_first(model, run, eager(**inputs, output_attentions=True))
    assert len(first_scores) == len(RAGGED)
    for b, (queries, alive, scores) in enumerate(first_scores):
        expected = rows[b][:, queries].mean((0, 1))[alive]
        agree(scores, expected, within=limit(family, of="attention"))
        neighbours = rows[b][:, queries - 1].mean((0, 1))[alive]
        assert (scores - neighbours).abs().max() > 1e-4  # or any rows would do


@feature("scores", every_attention=True)
@torch.no_grad()
def test_scores_of_a_second_turn_equal_eager_rows(
    family: Any, attention: str, first_scores: Any, agree: Agree
) -> None:
    first, second = batch(family, [Prompt(seed=1)]), batch(family, [Prompt(frames=6, seed=7)])
    turns = first, family.next_turn(first, second)
    model, eager, run = build(family, attention), build(family, "eager"), None
    length = second["input_ids"].shape[1]
    for pruned in (True, False):
        llm = model if pruned else eager
        cache = DynamicCache(config=llm.config.get_text_config())
        with LATE(llm) if pruned else nullcontext(run) as run:
            llm(**turns[0], past_key_values=cache)
            output = llm(**turns[1], past_key_values=cache, output_attentions=not pruned)
    queries, alive, scores = first_scores[1]
    expected = attentions_scored_first(model, run, output)[0][:, queries].mean((0, 1))[-length:][alive]
    agree(scores, expected, within=limit(family, of="attention"))


class Softcapped(LlavaOnevision):
    """With the decoder of Gemma 2, whose logits are bounded before the mask."""

    @staticmethod
    def config() -> Any:
        config = LlavaOnevision.config()
        text = {**config.text_config.to_dict(), "head_dim": 8, "query_pre_attn_scalar": 8}
        text |= {"attn_logit_softcapping": 5.0, "layer_types": None, "sliding_window": 4096}
        config.text_config = Gemma2Config(**text)
        return config


@torch.no_grad()
def test_scores_under_a_soft_cap_equal_eager_rows(first_scores: Any, agree: Agree) -> None:
    model, inputs = build(Softcapped, "eager"), batch(LlavaOnevision, [Prompt(seed=1)])
    with LATE(model) as run:
        model(**inputs)
    rows = attentions_scored_first(model, run, model(**inputs, output_attentions=True))
    [(queries, alive, scores)] = first_scores
    agree(scores, rows[0][:, queries].mean((0, 1))[alive], within=limit(LlavaOnevision, of="attention"))


@dataclass(frozen=True)
class Look(Merge):
    """Keeps everything and remembers what it was given."""

    tower_attention: ClassVar[bool] = True

    def cuts(self, shape: DecoderShape) -> tuple[int, ...]:
        return (0,)

    def rule(self, prefill: Prefill, sample: int, schedule: Schedule) -> Rule:
        def keep_all(cut: Cut) -> Tensor:
            noted.append((cut.states, prefill.tower_attention(sample)))
            return torch.arange(len(cut.token))

        return keep_all


noted: list[tuple[Tensor, Tensor]] = []


@feature("tower")
@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@torch.no_grad()
def test_methods_see_the_visual_tokens_and_the_towers_attention(
    family: Any, attention: str, agree: Agree
) -> None:
    model, prompts = sharp_tower(family, attention), [Prompt(frames=3, seed=1), Prompt(frames=3, seed=2)]
    inputs = wide_videos(family, prompts) if issubclass(family, Qwen25VL) else batch(family, prompts)
    expected = model(**inputs).logits
    with Vanilla()(model) as vanilla:
        model(**inputs)
    noted.clear()
    with Look()(model) as run:
        agree(model(**inputs).logits, expected)
    assert run.report.flops.vision > vanilla.report.flops.vision
    assert run.report.flops.request_vanilla == vanilla.report.flops.request
    encoded = family.encode(model, inputs)
    for (visual, received), video in zip(noted, encoded, strict=True):
        agree(visual, family.shown(video))
        assert len(visual) == len(received)
    received, expected = torch.cat([received for _, received in noted]), received_in_the_tower(family, inputs)
    if family.compresses:
        expected = expected[inputs["video_compression_mask"]]
    agree(received, expected, within=1e-5)
    assert received.std() > 1e-4  # not flat, or any order would do


@pytest.mark.skipif(Gemma4 not in MORE, reason="this transformers has no Gemma 4")
@pytest.mark.parametrize("attention", Gemma4.attentions)
@torch.no_grad()
def test_padded_patches_of_a_frame_have_no_attention_to_give(attention: str, agree: Agree) -> None:
    """Gemma 4's processor fills every frame up to the same number of patches."""
    family, inputs = Gemma4, batch(Gemma4, [Prompt(frames=3)])
    wider, pads = sharp_tower(family, attention), 20
    padded = {
        "pixel_values_videos": torch.nn.functional.pad(inputs["pixel_values_videos"], (0, 0, 0, pads)),
        "video_position_ids": torch.nn.functional.pad(
            inputs["video_position_ids"], (0, 0, 0, pads), value=-1
        ),
    }
    found = []
    for given in (inputs, {**inputs, **padded}):
        noted.clear()
        with Look()(wider):
            wider(**given)
        found.append(noted[0][1])
    agree(found[1], found[0], within=1e-5)
    agree(found[0], received_in_the_tower(family, inputs), within=1e-5)


def sharp_tower(family: Any, attention: str) -> Any:
    """The tower's last attention is not flat either."""
    model = build(family, attention)
    for name, parameter in family.last_attention(model).named_parameters():
        if parameter.ndim == 2 and ("qkv" in name or "q_proj" in name or name == "q.weight"):
            parameter.data.mul_(30)
    return model


def wide_videos(family: Any, prompts: list[Prompt]) -> dict[str, Tensor]:
    """Qwen2.5-VL's inputs of videos of 4 x 6 tokens a frame: its windows of 2 x 2 are not in raster order."""
    pixels, rows, grids = [], [], []
    for prompt in prompts:
        generator = torch.Generator().manual_seed(prompt.seed)
        pixels.append(torch.randn(prompt.frames * 96, 3 * 2 * 4 * 4, generator=generator))
        grids.append([prompt.frames, 8, 12])
        rows.append([1, 94, *[VIDEO] * (prompt.frames * 24), 95, 5, 6, 7])
    length = max(map(len, rows))
    ids = torch.tensor([[0] * (length - len(row)) + row for row in rows])
    return {
        **{name: part for name, part in batch(family, prompts).items() if "second_per" in name},
        "input_ids": ids,
        "attention_mask": (ids > 0).long(),
        **family.more(ids),
        "pixel_values_videos": torch.cat(pixels),
        "video_grid_thw": torch.tensor(grids),
    }


def received_in_the_tower(family: Any, inputs: dict[str, Tensor]) -> Tensor:
    """What each token's patches receive in the last layer of an eager tower, by its own probabilities."""
    model, observed = sharp_tower(family, "eager"), []
    last = family.last_attention(model)
    modeling = sys.modules[type(last).__module__]
    eager = modeling.eager_attention_forward

    def spy(module: Any, *args: Any, **kwargs: Any) -> Any:
        output, weights = eager(module, *args, **kwargs)
        if module is last:
            observed.append(weights.mean((1, 2)).flatten())
        return output, weights

    modeling.eager_attention_forward = spy
    try:
        family.encode(model, inputs)
    finally:
        modeling.eager_attention_forward = eager
    return family.pooled(torch.cat(observed))
