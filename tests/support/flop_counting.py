"""Torch's FLOP counter, and published shapes to count with."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode, sdpa_flop_count


def _sdpa_flops(query: Any, key: Any, value: Any, *args: Any, **kwargs: Any) -> int:
    return sdpa_flop_count(query, key, value)


def flop_counter() -> FlopCounterMode:
    """Counts what runs inside the context, the attention kernel of CPUs too, which torch's own leaves out."""
    kernel = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
    return FlopCounterMode(display=False, custom_mapping={kernel: _sdpa_flops})


def counted(run: Callable[[], Any]) -> int:
    """FLOPs as torch counts them."""
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        run()
    return int(counter.get_total_flops())


def on_meta(build: Callable[[], Any]) -> Any:
    """A model of any size, without its weights."""
    with torch.device("meta"):
        return build().eval()


def within_one_percent(flops: int) -> Any:
    """To compare with what was counted."""
    return pytest.approx(flops, rel=0.01)


QWEN2_7B = {
    "hidden_size": 3584,
    "num_hidden_layers": 28,
    "num_attention_heads": 28,
    "num_key_value_heads": 4,
    "intermediate_size": 18944,
    "vocab_size": 152064,
}
QWEN2_05B = {
    "hidden_size": 896,
    "num_hidden_layers": 24,
    "num_attention_heads": 14,
    "num_key_value_heads": 2,
    "intermediate_size": 4864,
    "vocab_size": 151936,
}
QWEN25_3B = {
    "hidden_size": 2048,
    "num_hidden_layers": 36,
    "num_attention_heads": 16,
    "num_key_value_heads": 2,
    "intermediate_size": 11008,
    "vocab_size": 151936,
}
QWEN25_7B = QWEN2_7B
SO400M = {"hidden_size": 1152, "intermediate_size": 4304, "num_attention_heads": 16}
