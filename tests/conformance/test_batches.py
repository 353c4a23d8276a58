"""A batch equals its single runs."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from adatp import AdaTP
from adatp.flops import layer_types
from adatp.models import decoder_of
from agreement import Agree
from families import (
    FAMILIES,
    batch,
    build,
)
from oracle import WITH_STATE
from rounding import limit, no_float32_islands
from suite import EQUAL, GREEDY, RAGGED, STEPS, dropped, feature, generated_logits


@feature("batch", every_attention=True)
def test_a_padded_batch_equals_its_single_runs(
    family: Any, attention: str, prune: AdaTP, monkeypatch: pytest.MonkeyPatch, agree: Agree
) -> None:
    """To keep the same tokens, the two must order scores the same: in float64."""
    dtype = torch.float64
    no_float32_islands(family, monkeypatch)
    model, inputs = build(family, attention, dtype), batch(family, RAGGED, dtype)
    with prune(model) as run:
        together = model.generate(**inputs, **GREEDY)
        joint = run.report
        for b, prompt in enumerate(RAGGED):
            alone = model.generate(**batch(family, [prompt], dtype), **GREEDY)
            pads = len(inputs["input_ids"][b]) - int(inputs["attention_mask"][b].sum())
            for together_kept, alone_kept in zip(joint.kept, run.report.kept, strict=True):
                assert torch.equal(together_kept[b] - pads, alone_kept[0])
            assert torch.equal(together.sequences[b, -STEPS:], alone.sequences[0, -STEPS:])
            agree(generated_logits(together)[b], generated_logits(alone)[0], within=limit(family))


@feature("batch")
def test_equal_prompts_keep_the_mask_free_kernel(family: Any, prune: AdaTP) -> None:
    """Wherever transformers runs it unpruned: everywhere, except for Gemma 3's images and windows."""
    model, inputs = build(family), batch(family, EQUAL)
    masked: list[bool] = []
    for layer in decoder_of(model).layers:  # what they get in the end
        names = ("self_attn", *WITH_STATE)
        mixer = next(getattr(layer, name) for name in names if hasattr(layer, name))
        mixer.register_forward_pre_hook(
            lambda _, args, kwargs: masked.append(kwargs.get("attention_mask") is not None), with_kwargs=True
        )
    model.generate(**inputs, **GREEDY)
    vanilla, masked[:] = [*masked], []
    with prune(model) as run:
        model.generate(**inputs, **GREEDY)
    assert dropped(run)
    assert len(masked) == len(family.layers) * STEPS
    assert masked == vanilla
    if family not in FAMILIES:
        return
    sliding = sum(kind == "sliding_attention" for kind in layer_types(decoder_of(model).config))
    assert sum(masked) == (len(family.layers) + (STEPS - 1) * sliding if sliding else 0)
