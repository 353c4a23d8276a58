"""Several turns on one cache, and what a cache remembers."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import DynamicCache, StaticCache

from adatp import AdaTP
from agreement import Agree
from families import (
    ENGINE,
    FAMILIES,
    Prompt,
    Qwen35,
    batch,
    build,
)
from more_families import Lfm3VL, NemotronHOmni
from oracle import recorded
from rounding import limit
from suite import EQUAL, EVERY, ONE, RAGGED, dropped, engine, feature, shape_of


@feature("turns", every_attention=True)
@pytest.mark.parametrize("video", [False, True], ids=["text", "another-video"])
def test_a_second_turn_on_one_cache(
    family: Any, attention: str, video: bool, prune: AdaTP, agree: Agree
) -> None:
    model, first = build(family, attention), batch(family, [Prompt(seed=1)])
    second = family.next_turn(first, batch(family, [Prompt(frames=6, seed=7)]))
    if not video:
        second = {"input_ids": second["input_ids"][:, -7:]}
    cache = DynamicCache(config=model.config.get_text_config())
    with prune(model) as run, recorded(model) as record:
        model(**first, past_key_values=cache)
        output = model(**second, past_key_values=cache)
        assert output.logits.shape[1] == second["input_ids"].shape[1]
        model(input_ids=torch.tensor([[17]]), past_key_values=cache)
    assert len(run.reports) == 1 + video
    assert run.report.decode_steps == (1 if video else 8)  # what is read after the video
    kept = [[*layer] for layer in run.reports[0].kept]
    length = first["input_ids"].shape[1]
    if video:
        assert run.report.visual_tokens[-1] < run.report.visual_tokens[0]
        length += second["input_ids"].shape[1]
        kept = [
            [torch.cat(both)] for both in zip(*[[b for (b,) in r.kept] for r in run.reports], strict=True)
        ]
    agree.masked(model, record, kept, torch.ones(1, length, dtype=torch.bool), within=limit(family))


@pytest.mark.parametrize(
    "family",
    [family for family in EVERY if family in (Qwen35, NemotronHOmni)],
    ids=lambda family: family.name,
)
@torch.no_grad()
def test_a_second_video_for_several_prompts_at_once_is_not_pruned_after_a_state(
    family: Any, prune: AdaTP, agree: Agree
) -> None:
    """Its fillers would lie between a sample's state and its next token."""
    model = build(family)
    first, second = batch(family, EQUAL), batch(family, [Prompt(frames=6, seed=n) for n in (7, 8, 9)])
    second.pop("attention_mask")
    cache = DynamicCache(config=model.config.get_text_config())
    with prune(model) as run, recorded(model) as record:
        model(**first, past_key_values=cache)
        with pytest.warns(UserWarning, match="not pruned: linear attention can't go on with several prompts"):
            model(**second, past_key_values=cache)
    assert len(run.reports) == 1
    agree.masked(model, record, run.report.kept, first["attention_mask"].bool(), within=limit(family))


@engine
@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@torch.no_grad()
def test_a_cache_that_the_decoder_made_itself_goes_on(
    family: Any, attention: str, prune: AdaTP, agree: Agree
) -> None:
    model, inputs = build(family, attention), batch(family, ONE)
    with prune(model) as run, recorded(model) as record:
        cache = model(**inputs).past_key_values
        for word in (17, 18):
            model(input_ids=torch.tensor([[word]]), past_key_values=cache)
    assert dropped(run)
    assert run.report.decode_steps == 2
    agree.masked(model, record, run.report.kept, inputs["attention_mask"].bool(), within=limit(family))


@feature("cache")
@torch.no_grad()
def test_a_copied_cache_goes_on_by_itself(family: Any, prune: AdaTP, agree: Agree) -> None:
    model, inputs = build(family), batch(family, RAGGED)
    cache = DynamicCache(config=model.config.get_text_config())
    mask = torch.cat([inputs["attention_mask"], torch.ones(3, 1, dtype=torch.int64)], 1)
    position = torch.full((3, 1), 50)
    step = {"input_ids": torch.tensor([[5], [6], [7]]), "attention_mask": mask}
    step["position_ids"] = family.position(position)
    with prune(model):
        model(**inputs, past_key_values=cache)
        twin = copy.deepcopy(cache)
        expected = model(**step, past_key_values=cache).logits
        cache.held.clear()
        agree(model(**step, past_key_values=twin).logits, expected)


@pytest.mark.parametrize(
    ("family", "change"),
    [
        pytest.param(family, change, id=f"{family.name}-{change}")
        for family in (*ENGINE, Qwen35)
        for change in ("reorder", "select", "repeat")
        if family is not Qwen35 or change == "reorder"  # transformers' states can't be selected or repeated
    ],
)
@torch.no_grad()
def test_a_cache_whose_rows_move_remembers_them(family: Any, change: str, prune: AdaTP, agree: Agree) -> None:
    """As beam search does, but between samples that keep different tokens."""
    model, inputs = build(family), batch(family, RAGGED)
    cache = DynamicCache(config=model.config.get_text_config())

    def step(order: list[int]) -> Tensor:
        mask = torch.nn.functional.pad(inputs["attention_mask"], (0, 1), value=1)[order]
        if family.multimodal_rope:
            model.model.rope_deltas = torch.zeros(1, 1, dtype=torch.int64)
        position = family.position(torch.full((len(order), 1), 50))
        words = torch.tensor([[5], [6], [7]])[order]
        return model(
            input_ids=words, attention_mask=mask, position_ids=position, past_key_values=cache
        ).logits

    with prune(model):
        model(**inputs, past_key_values=cache)
        twin = copy.deepcopy(cache)
        expected = step([0, 1, 2])
        cache = twin
        order = {"reorder": [2, 0, 1], "select": [2, 1], "repeat": [0, 0, 1, 1, 2, 2]}[change]
        if change == "reorder":
            cache.reorder_cache(torch.tensor(order))
        elif change == "select":
            cache.batch_select_indices(torch.tensor(order))
        else:
            cache.batch_repeat_interleave(2)
        agree(step(order), expected[order], within=limit(family))


@engine
@pytest.mark.parametrize("static", [False, True], ids=["dynamic", "static"])
@torch.no_grad()
def test_a_pruned_cache_looks_like_a_complete_one(family: Any, static: bool, prune: AdaTP) -> None:
    """Transformers numbers positions and sizes masks by it."""
    model, inputs = build(family), batch(family, RAGGED)
    config = model.config.get_text_config()
    complete, pruned = (StaticCache(config, 256) if static else DynamicCache(config=config) for _ in range(2))
    model(**inputs, past_key_values=complete)
    with prune(model):
        model(**inputs, past_key_values=pruned)
    for layer in {0, *shape_of(model).key_layers}:
        assert pruned.get_seq_length(layer) == complete.get_seq_length(layer) == inputs["input_ids"].shape[1]
        for new in (1, 5):
            assert pruned.get_mask_sizes(new, layer) == complete.get_mask_sizes(new, layer)


@engine
@torch.no_grad()
def test_a_pruned_cache_is_refused_outside(family: Any, prune: AdaTP) -> None:
    model, inputs = build(family), batch(family, ONE)
    cache = DynamicCache(config=model.config.get_text_config())
    with prune(model):
        model(**inputs, past_key_values=cache)
    twin, step = copy.deepcopy(cache), {"input_ids": torch.tensor([[5]])}
    with pytest.raises(RuntimeError, match="inside `with AdaTP"):
        model(**step, past_key_values=cache)
    with prune(model):  # and the refused call has left nothing in it
        logits = [model(**step, past_key_values=each).logits for each in (cache, twin)]
    assert torch.equal(*logits)


@feature("outputs")
@torch.no_grad()
def test_a_cache_made_without_a_config_and_plain_tuples(family: Any, prune: AdaTP, agree: Agree) -> None:
    model, inputs = build(family), batch(family, RAGGED)
    with prune(model):
        expected = model(**inputs, past_key_values=DynamicCache(config=model.config.get_text_config())).logits
        if not issubclass(family, (Qwen35, Lfm3VL, NemotronHOmni)):  # transformers makes no state unasked
            agree(model(**inputs, past_key_values=DynamicCache()).logits, expected)
        agree(model(**inputs, use_cache=False).logits, expected)
        agree(model(**inputs, return_dict=False)[0], expected)


# Transformers crops neither states nor windows but where assisted decoding has told them to.
@pytest.mark.parametrize("family", FAMILIES[:2], ids=lambda family: family.name)
@torch.no_grad()
def test_a_pruned_cache_is_cropped_to_what_no_layer_dropped(family: Any, prune: AdaTP, agree: Agree) -> None:
    model, inputs = build(family), batch(family, RAGGED)
    length = inputs["input_ids"].shape[1]
    cache = DynamicCache(config=model.config.get_text_config())
    step = {
        "input_ids": torch.tensor([[5], [6], [7]]),
        "attention_mask": torch.nn.functional.pad(inputs["attention_mask"], (0, 1), value=1),
        "position_ids": family.position(torch.full((3, 1), 50)),
    }
    with prune(model):
        model(**inputs, past_key_values=cache)
        expected = model(**step, past_key_values=cache).logits
        cache.crop(-1)
        agree(model(**step, past_key_values=cache).logits, expected)
        cache.crop(length)  # what is left, as up to transformers 5.13
        assert cache.get_seq_length() == length
        agree(model(**step, past_key_values=cache).logits, expected)
        cache.crop(-4)  # into the question
        assert cache.get_seq_length() == length - 3
        with pytest.raises(ValueError, match="within what was pruned"):
            cache.crop(-20)
        assert cache.get_seq_length() == length - 3
