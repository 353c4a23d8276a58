"""Outputs stand at the positions of the prompt."""

from __future__ import annotations

import inspect
from typing import Any

import pytest
import torch
from transformers import DynamicCache, StaticCache

from adatp import AdaTP
from agreement import Agree
from families import (
    batch,
    build,
)
from oracle import head_of
from rounding import limit
from suite import RAGGED, dropped, engine, feature, shape_of


@feature("outputs", every_attention=True)
def test_outputs_stand_at_their_positions(family: Any, attention: str, prune: AdaTP, agree: Agree) -> None:
    model, inputs = build(family, attention), batch(family, RAGGED)
    labels = inputs["input_ids"].where(inputs["input_ids"] < 90, -100)
    labels[:, :-5] = -100
    with prune(model) as run:
        complete = model(**inputs, output_hidden_states=True)
        picked = model(**inputs, logits_to_keep=torch.tensor([-3, -1]))
        loss = model(**inputs, labels=labels).loss
    length = inputs["input_ids"].shape[1]
    assert complete.logits.shape[:2] == (3, length)
    every = "logits_to_keep" not in inspect.signature(model.forward).parameters
    ignored = every and picked.logits.shape[1] == length
    agree(picked.logits, complete.logits if ignored else complete.logits[:, [-3, -1]], within=limit(family))
    lengths = inputs["attention_mask"].sum().item() if every else 3
    assert run.report.flops.lm_head == 2 * lengths * head_of(model).weight.numel()
    expected = torch.nn.functional.cross_entropy(
        complete.logits[:, -6:-1].flatten(0, 1), labels[:, -5:].flatten()
    )
    agree(loss, expected, within=limit(family))
    assert len(complete.hidden_states) == len(family.layers) + 1
    for made_by, state in enumerate(complete.hidden_states[1:]):  # zeros exactly where the layer did not run
        for b, kept in enumerate(run.report.kept[made_by]):
            ran = torch.zeros(length, dtype=torch.bool)
            ran[kept] = True
            scored = min(run.method.scored_layers(shape_of(model)))  # the first cut comes after it
            assert torch.equal(state[b].abs().sum(-1) > 0, ran) or made_by <= scored


@engine
@pytest.mark.parametrize("asked", [True, 2, [2], [0, 3, -1], [-1]], ids=str)
@torch.no_grad()
def test_hidden_states_are_those_asked_for(family: Any, asked: Any, prune: AdaTP, agree: Agree) -> None:
    """As many as unpruned, each as long as the prompt; the first is what the decoder is given."""
    model, inputs = build(family), batch(family, RAGGED)
    vanilla = model(**inputs, output_hidden_states=asked).hidden_states
    with prune(model) as run:
        every = model(**inputs, output_hidden_states=True).hidden_states
        found = model(**inputs, output_hidden_states=asked).hidden_states
    assert dropped(run)
    assert [None if state is None else state.shape for state in found] == [
        None if state is None else state.shape for state in vanilla
    ]
    for number, state in enumerate(found):
        if state is not None:
            agree(state, every[number])
    if found[0] is not None:
        agree(found[0], vanilla[0])


@engine
@pytest.mark.parametrize("static", [False, True], ids=["dynamic", "static"])
@torch.no_grad()
def test_attentions_are_those_of_the_tokens_that_a_layer_processed(
    family: Any, static: bool, prune: AdaTP, agree: Agree
) -> None:
    """As docs/method.md says: rows and columns are `kept` of the layer, fillers on the left."""
    model, inputs = build(family, "eager"), batch(family, RAGGED)
    length, slots = inputs["input_ids"].shape[1], 400
    config = model.config.get_text_config()
    full = [n for n, kind in enumerate(config.layer_types) if kind != "linear_attention"]

    def attentions() -> tuple[Any, ...]:
        cache = StaticCache(config, slots) if static else DynamicCache(config=config)
        found = model(**inputs, past_key_values=cache, output_attentions=True).attentions
        assert len(found) == len(full)
        return tuple(found)

    vanilla = attentions()
    with prune(model) as run:
        found = attentions()
    assert dropped(run)
    for number, layer in enumerate(full):
        kept = run.report.kept[layer]
        longest = max(map(len, kept))
        uncut = [len(row) for row in kept] == run.report.prompt_tokens
        rows = length if uncut else longest
        fixed = static and config.layer_types[layer] != "sliding_attention"
        assert found[number].shape[2:] == (rows, slots if fixed else rows)
        if uncut:
            agree(found[number], vanilla[number])
            continue
        for row, positions in zip(found[number], kept, strict=True):
            own = slice(longest - len(positions), longest)
            to_kept = row[:, own, own].sum(-1)  # and nothing goes to fillers or unused slots
            agree(to_kept, torch.ones(to_kept.shape), within=1e-5)
