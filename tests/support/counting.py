"""A decoder wide enough for its FLOPs to outweigh what is not counted, and what torch counts of it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from adatp.models import decoder_of
from flop_counting import flop_counter


def build_wide(family: Any, attention: str = "sdpa") -> Any:
    """A random model of a family with a text width of 128."""
    config = family.config()
    text = config.text_config
    text.hidden_size, text.intermediate_size, text.num_attention_heads = 128, 256, 4
    if hasattr(config.vision_config, "out_hidden_size"):
        config.vision_config.out_hidden_size = 128
        text.rope_parameters["mrope_section"] = [4, 6, 6]
    config._attn_implementation = attention
    torch.manual_seed(0)
    return family.model_class(config).eval()


@contextmanager
def decoder_flops(model: Any) -> Iterator[list[int]]:
    """What torch counts in each call of the decoder, one after the other; open it inside the context."""
    counted: list[int] = []
    counters: list[Any] = []
    decoder = decoder_of(model)

    def begin(*_: Any) -> None:
        counters.append(flop_counter())
        counters[-1].__enter__()

    def end(*_: Any) -> None:
        counters[-1].__exit__(None, None, None)
        counted.append(counters[-1].get_total_flops())

    handles = [decoder.register_forward_pre_hook(begin), decoder.register_forward_hook(end)]
    try:
        yield counted
    finally:
        for handle in handles:
            handle.remove()
