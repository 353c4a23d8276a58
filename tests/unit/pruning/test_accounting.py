"""Targets are met and FLOPs are those that torch counts: on a filled cache, in ragged batches, for beams."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from transformers import DynamicCache, StaticCache

from adatp import AdaTP
from adatp.methods import METHODS
from counting import build_wide, decoder_flops
from families import ENGINE, LlavaOnevision, Prompt, Qwen35, batch, build
from suite import GREEDY

LONG = Prompt(frames=40, seed=1)
VIDEO = Prompt(frames=32, seed=7)
RAGGED = [Prompt(frames=24, seed=1, before=1, question=3), Prompt(frames=24, seed=2, before=60, question=40)]
several = pytest.mark.parametrize("family", [*ENGINE, Qwen35], ids=lambda family: family.name)


def second_turn(family: Any, first: dict[str, Any], prompt: Prompt) -> dict[str, Any]:
    return family.next_turn(first, batch(family, [prompt]))


@several
@pytest.mark.parametrize("before", ["video", "text"])
@pytest.mark.parametrize("method", [AdaTP(flops=0.5), AdaTP(flops=0.5, early="off")], ids=["early", "late"])
@torch.no_grad()
def test_on_a_filled_cache_the_target_is_met_and_flops_are_torchs(
    family: Any, before: str, method: AdaTP
) -> None:
    model = build_wide(family)
    first = batch(family, [LONG]) if before == "video" else {"input_ids": torch.arange(1, 80).repeat(1, 4)}
    second = family.next_turn(batch(family, [LONG]), batch(family, [VIDEO]))
    cache = DynamicCache(config=model.config.get_text_config())
    with method(model) as run, decoder_flops(model) as counted:
        model(**first, past_key_values=cache)
        model(**second, past_key_values=cache)
    vanilla = DynamicCache(config=model.config.get_text_config())
    with decoder_flops(model) as complete:
        model(**first, past_key_values=vanilla)
        model(**second, past_key_values=vanilla)
    report = run.report
    assert report.flops.decoder == pytest.approx(counted[-1], rel=0.01)
    assert report.flops.decoder_vanilla == pytest.approx(complete[-1], rel=0.01)
    assert report.flops.decoder_padded == report.flops.decoder
    assert 0.97 * method.flops < report.flops_ratio <= method.flops


@pytest.mark.parametrize("name", sorted({*METHODS} - {"vanilla", "adatp"}))
@torch.no_grad()
def test_every_method_meets_the_target_on_a_filled_cache(name: str) -> None:
    model = build_wide(LlavaOnevision)
    cache = DynamicCache(config=model.config.get_text_config())
    with METHODS[name](flops=0.5)(model) as run, decoder_flops(model) as counted:
        model(**batch(LlavaOnevision, [LONG]), past_key_values=cache)
        model(**second_turn(LlavaOnevision, {}, VIDEO), past_key_values=cache)
    assert run.report.flops.decoder == pytest.approx(counted[-1], rel=0.01)
    assert run.report.flops_ratio <= 0.5


@pytest.mark.parametrize("static", [False, True], ids=["dynamic", "static"])
@torch.no_grad()
def test_decode_steps_after_a_second_video_are_counted_by_what_layers_hold(static: bool) -> None:
    model = build_wide(LlavaOnevision)
    config = model.config.get_text_config()
    cache = StaticCache(config, 512) if static else DynamicCache(config=config)
    with AdaTP(flops=0.5)(model) as run, decoder_flops(model) as counted:
        model(**batch(LlavaOnevision, [LONG]), past_key_values=cache)
        model(**second_turn(LlavaOnevision, {}, VIDEO), past_key_values=cache)
        model(input_ids=torch.tensor([[17]]), past_key_values=cache)
    lm_head = 2 * config.hidden_size * config.vocab_size
    if not static:  # whose unused slots torch counts too
        assert run.report.flops.decode - lm_head == pytest.approx(counted[-1], rel=0.01)
    held = run.report.past + len(batch(LlavaOnevision, [VIDEO])["input_ids"][0])
    assert all(len(layer[0]) < held for layer in run.report.kept)


@pytest.mark.parametrize("second", [False, True], ids=["first-turn", "second-turn"])
@torch.no_grad()
def test_pads_of_earlier_turns_are_no_tokens(second: bool) -> None:
    """Each row of a padded batch is counted as by itself, also where a cache has pads and fillers."""
    model, family = build(LlavaOnevision), LlavaOnevision
    prompts = [Prompt(frames=24, seed=1), Prompt(frames=24, seed=2, before=30)]
    after = [Prompt(frames=20, seed=7), Prompt(frames=20, seed=8)]

    def ratio(rows: slice) -> list[Any]:
        inputs = batch(family, prompts[rows])
        cache = DynamicCache(config=model.config.get_text_config())
        with AdaTP(flops=0.6)(model) as run:
            model(**inputs, past_key_values=cache)
            if second:
                turn = batch(family, after[rows])
                mask = torch.cat([inputs["attention_mask"], turn.pop("attention_mask")], 1)
                model(**turn, attention_mask=mask, past_key_values=cache)
        return [run.report.flops.decoder, run.report.flops.decoder_vanilla, run.report.visual_tokens]

    first, last, both = ratio(slice(1)), ratio(slice(1, 2)), ratio(slice(2))
    assert both[0] == first[0] + last[0]
    assert both[1] == first[1] + last[1]
    assert both[2] == [a + b for a, b in zip(first[2], last[2], strict=True)]


@several
@pytest.mark.parametrize("target", [0.95, 0.7])
@torch.no_grad()
def test_a_ragged_batch_meets_the_target_and_says_what_padding_costs(family: Any, target: float) -> None:
    model = build_wide(family)
    inputs = batch(family, RAGGED)
    with decoder_flops(model) as complete:
        model(**inputs)
    with AdaTP(flops=target, early="off")(model) as run, decoder_flops(model) as counted:
        model(**inputs)
    alone = []
    for prompt in RAGGED:
        with AdaTP(flops=target, early="off")(model) as one:
            model(**batch(family, [prompt]))
        alone.append(one.report)
    flops = run.report.flops
    assert flops.decoder == sum(report.flops.decoder for report in alone)
    assert run.report.flops_ratio <= target
    assert flops.decoder_padded == pytest.approx(counted[0], rel=0.01)
    assert flops.decoder_padded_vanilla == pytest.approx(complete[0], rel=0.01)
    assert flops.decoder_padded > flops.decoder
    assert run.report.to_dict()["padded_flops_ratio"] == run.report.padded_flops_ratio
    assert f"{run.report.padded_flops_ratio:.1%} with padding" in str(run.report)


@pytest.mark.parametrize("how", [{"num_beams": 4}, {"num_return_sequences": 4, "do_sample": True}], ids=str)
def test_copies_of_one_prompt_measure_relevance_once(how: dict[str, Any]) -> None:
    model, inputs = build(LlavaOnevision), batch(LlavaOnevision, [Prompt(seed=1), Prompt(seed=2)])
    method = AdaTP(flops=0.5, relevance="embedding")

    def relevance(**more: Any) -> tuple[int, Any]:
        with method(model) as run:
            model.generate(**inputs, **{**GREEDY, **more, "output_logits": False})
        return run.report.flops.relevance, [notes["frame_relevance"] for notes in run.report.notes]

    flops, (first, second) = relevance()
    assert flops > 0
    assert relevance(**how) == (flops, [first] * 4 + [second] * 4)


@torch.no_grad()
def test_equal_prompts_with_other_videos_are_no_copies() -> None:
    model, inputs = build(LlavaOnevision), batch(LlavaOnevision, [Prompt(seed=1), Prompt(seed=1)])
    inputs["pixel_values_videos"][1] *= -1
    with AdaTP(flops=0.5, relevance="embedding")(model) as run:
        model(**inputs)
    first, second = (notes["frame_relevance"] for notes in run.report.notes)
    assert first != second
