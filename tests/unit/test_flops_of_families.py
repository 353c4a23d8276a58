"""What decoders of all sorts cost, against torch's FlopCounterMode on small models."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from adatp.flops import DecoderShape, prefill_flops
from adatp.models import decoder_of
from families import Prompt, batch, build
from flop_counting import within_one_percent
from more_families import MORE, Ernie45VL, MiniCPMV46, NemotronHOmni

# Linear attention and Mamba (see `test_flops_of_mamba`) fill up their last chunk, here the only one. ERNIE's
# visual tokens have narrower experts.
LEFT_OUT = (MiniCPMV46, Ernie45VL, NemotronHOmni)
COUNTED = [family for family in MORE if not issubclass(family, LEFT_OUT)]


@pytest.mark.parametrize("family", COUNTED, ids=lambda family: family.name)
@torch.no_grad()
def test_the_prefill_of_a_decoder(family: Any) -> None:
    model, inputs = build(family, "eager"), batch(family, [Prompt(frames=3)])
    model.set_experts_implementation("eager")  # the counter knows no grouped products
    decoder, counter = decoder_of(model), FlopCounterMode(display=False)
    decoder.register_forward_pre_hook(lambda *_: counter.__enter__() and None)
    decoder.register_forward_hook(lambda *_: counter.__exit__(None, None, None))
    model(**inputs)
    shape, tokens = DecoderShape.from_config(decoder.config), inputs["input_ids"].shape[1]
    assert counter.get_total_flops() == within_one_percent(prefill_flops(shape, [tokens] * shape.layers))
