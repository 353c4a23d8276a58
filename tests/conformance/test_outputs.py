"""Outputs stand at the positions of the prompt."""

from __future__ import annotations

import inspect
from typing import Any

import pytest
import torch

from adatp import AdaTP
from agreement import Agree
from families import (
    batch,
    build,
)
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
    agree(picked.logits, complete.logits if every else complete.logits[:, [-3, -1]], within=limit(family))
    lengths = inputs["attention_mask"].sum().item() if every else 3
    assert run.report.flops.lm_head == 2 * lengths * model.lm_head.weight.numel()
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
