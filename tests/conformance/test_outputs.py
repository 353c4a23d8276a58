"""Outputs stand at the positions of the prompt."""

from __future__ import annotations

import inspect
from typing import Any

import torch

from adatp import AdaTP
from agreement import Agree
from families import (
    batch,
    build,
)
from rounding import limit
from suite import RAGGED, feature, shape_of


@feature("outputs", every_attention=True)
def test_outputs_stand_at_their_positions(family: Any, attention: str, prune: AdaTP, agree: Agree) -> None:
    model, inputs = build(family, attention), batch(family, RAGGED)
    labels = inputs["input_ids"].where(inputs["input_ids"] < 90, -100)
    labels[:, :-5] = -100
    with prune(model) as run:
        whole = model(**inputs, output_hidden_states=True)
        picked = model(**inputs, logits_to_keep=torch.tensor([-3, -1]))
        loss = model(**inputs, labels=labels).loss
    length = inputs["input_ids"].shape[1]
    assert whole.logits.shape[:2] == (3, length)
    every = "logits_to_keep" not in inspect.signature(model.forward).parameters
    agree(picked.logits, whole.logits if every else whole.logits[:, [-3, -1]], within=limit(family))
    lengths = inputs["attention_mask"].sum().item() if every else 3
    assert run.report.flops.lm_head == 2 * lengths * model.lm_head.weight.numel()
    expected = torch.nn.functional.cross_entropy(
        whole.logits[:, -6:-1].flatten(0, 1), labels[:, -5:].flatten()
    )
    agree(loss, expected, within=limit(family))
    assert len(whole.hidden_states) == len(family.layers) + 1
    for made_by, state in enumerate(whole.hidden_states[1:]):  # zeros exactly where the layer did not run
        for b, kept in enumerate(run.report.kept[made_by]):
            ran = torch.zeros(length, dtype=torch.bool)
            ran[kept] = True
            scored = min(run.method.scored_layers(shape_of(model)))  # the first cut comes after it
            assert torch.equal(state[b].abs().sum(-1) > 0, ran) or made_by <= scored
