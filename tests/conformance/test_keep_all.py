"""Keeping every token changes no bit."""

from __future__ import annotations

from typing import Any

import torch

from adatp import AdaTP
from agreement import Agree
from families import (
    Prompt,
    batch,
    build,
)
from suite import GREEDY, batches, feature, generated_logits


@feature("keep all", every_attention=True)
@batches
def test_keep_all_is_bit_identical(family: Any, attention: str, prompts: list[Prompt], agree: Agree) -> None:
    model, inputs = build(family, attention), batch(family, prompts)
    vanilla = model.generate(**inputs, **GREEDY)
    complete = model(**inputs).logits
    with AdaTP(flops=1.0)(model) as run:
        kept = model.generate(**inputs, **GREEDY)
        agree(model(**inputs).logits, complete)
    agree(kept.sequences, vanilla.sequences)
    agree(generated_logits(kept), generated_logits(vanilla))
    assert run.report.flops_ratio == 1
    for layer in run.report.kept:
        assert all(map(torch.equal, layer, run.report.kept[0]))
