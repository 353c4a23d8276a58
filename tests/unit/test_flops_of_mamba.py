"""What decoders of Mamba layers and lone MLPs cost, against torch's FlopCounterMode, to the last product."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from adatp.doctor.footprint import cache_numbers
from adatp.flops import DecoderShape, decode_flops, lm_head_flops, paper_macs, prefill_flops
from adatp.mixers import Mamba2
from flop_counting import counted
from more_families import MORE, NemotronHOmni, of_transformers

pytestmark = pytest.mark.skipif(NemotronHOmni not in MORE, reason="this transformers does not have the type")

KINDS = ["linear_attention", "mlp", "full_attention", "moe", "linear_attention"]
SIZES: dict[str, Any] = {
    "hidden_size": 64, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 32,
    "intermediate_size": 160, "vocab_size": 100, "layers_block_type": KINDS, "mamba_num_heads": 4,
    "mamba_head_dim": 24, "n_groups": 2, "ssm_state_size": 16, "conv_kernel": 3, "chunk_size": 32,
    "n_routed_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 48,
    "moe_shared_expert_intermediate_size": 40, "attn_implementation": "eager",
    "experts_implementation": "eager",
}  # fmt: skip
CHANNELS, STATE = 4 * 24 + 2 * 2 * 16, 4 * 24 * 16
"""Of the convolution; of the state."""


def decoder_with(**more: Any) -> Any:
    return of_transformers("NemotronHModel")(of_transformers("NemotronHConfig")(**SIZES, **more)).eval()


@pytest.mark.parametrize("narrow", [None, 24], ids=["experts", "narrow-experts"])
def test_mamba_to_the_last_product(narrow: int | None) -> None:
    """All that is left out: what the convolution makes of padding, and states between all pairs of chunks."""
    model, cache = decoder_with(moe_latent_size=narrow), None
    shape = DecoderShape.from_config(model.config)

    def read(tokens: int, padding: int, chunks: int) -> int:
        nonlocal cache

        def run() -> None:
            nonlocal cache
            cache = model(inputs_embeds=torch.randn(1, tokens, 64), cache=cache, use_cache=True).cache

        return counted(run) - 2 * 2 * (3 * padding * CHANNELS + chunks**2 * STATE)

    assert read(96, 2, 4) == prefill_flops(shape, [96] * 5)
    assert read(64, 5, 3) == prefill_flops(shape, [64] * 5, past=96)
    written = 2 * 2 * STATE  # element by element, which the counter does not see
    assert read(1, 1, 0) == decode_flops(shape, [160] * 5, 1) - lm_head_flops(shape, 1) - written
    assert 2 * paper_macs(shape, [96] * 5) == prefill_flops(shape, [96] * 5)


def test_layers_are_counted_by_what_they_are() -> None:
    shape = DecoderShape.from_config(decoder_with().config)
    assert shape.mixer == Mamba2((0, 4), 4, 2, 24, 16, 3, 32)
    assert (shape.lone_mlps, shape.dense, shape.dense_intermediate) == ((1, 3), (1,), 160)
    assert (shape.key_layers, shape.full_layers, shape.cut_layers) == ((2,), (2,), (3,))

    def of_layer(number: int) -> int:
        return prefill_flops(shape, [int(layer == number) for layer in range(5)])

    assert of_layer(1) == 2 * 2 * 64 * 160
    assert of_layer(2) == 2 * (2 * 64 * (4 + 2) * 32 + 2 * 4 * 32)
    assert of_layer(3) == 2 * 64 * (2 * (2 * 48 + 40) + 4)
    assert (
        of_layer(0)
        == of_layer(4)
        == 2 * (64 * (3 * 96 + 64 + 4) + 3 * CHANNELS + 4 * 32 * (16 + 24) + 2 * STATE)
    )
    assert cache_numbers(shape, [10] * 5) == 10 * 2 * 2 * 32 + 2 * STATE
