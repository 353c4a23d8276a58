"""Flash attention without the package flash_attn: transformers' own code over PyTorch's kernels.

PyTorch is built with the kernels of FlashAttention 2. What the package would bring is replaced,
``flash_attn_func`` and ``flash_attn_varlen_func``. Masks, padding, caches and packed sequences go the way
that transformers takes them with the package.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from transformers import AttentionInterface, AttentionMaskInterface, modeling_flash_attention_utils
from transformers.integrations.flash_attention import flash_attention_forward
from transformers.masking_utils import flash_attention_mask

NAME = "torch_flash_attention"
"""Under which the kernels of PyTorch are registered."""

PACKAGE = "flash_attention_2"

Kernels = tuple[Callable[..., Tensor], Callable[..., Tensor]]


def flash_attn_func(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    dropout_p: float = 0.0,
    softmax_scale: float | None = None,
    causal: bool = False,
    window_size: tuple[int, int] = (-1, -1),
    **_: Any,
) -> Tensor:
    """Attention of (batch, length, heads, width) in half precision, causal with respect to the last key."""
    return _forward(
        q, k, v, None, None, q.shape[1], k.shape[1], dropout_p, softmax_scale, causal, window_size
    )


def flash_attn_varlen_func(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    cu_seqlens_q: Tensor,
    cu_seqlens_k: Tensor,
    max_seqlen_q: int,
    max_seqlen_k: int,
    dropout_p: float = 0.0,
    softmax_scale: float | None = None,
    causal: bool = False,
    window_size: tuple[int, int] = (-1, -1),
    **_: Any,
) -> Tensor:
    """The same of sequences laid side by side, (tokens, heads, width); where each starts is int32."""
    starts = cu_seqlens_q.int(), cu_seqlens_k.int()
    return _forward(
        q, k, v, *starts, int(max_seqlen_q), int(max_seqlen_k), dropout_p, softmax_scale, causal, window_size
    )


def _forward(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    starts_q: Tensor | None,
    starts_k: Tensor | None,
    longest_q: int,
    longest_k: int,
    dropout: float,
    scale: float | None,
    causal: bool,
    window: tuple[int, int],
) -> Tensor:
    left, right = window
    sides = {} if window == (-1, -1) else {"window_size_left": left, "window_size_right": right}
    out: Tensor = torch.ops.aten._flash_attention_forward(
        *(q, k, v, starts_q, starts_k, longest_q, longest_k, dropout, causal, False), scale=scale, **sides
    )[0]
    return out


def register(name: str, kernels: Kernels) -> None:
    """Make transformers know an attention that goes flash attention's way over these kernels."""
    functions[name] = kernels
    AttentionInterface.register(name, flash_attention_forward)
    AttentionMaskInterface.register(name, flash_attention_mask)


def choose() -> str:
    """The name for a config: the package's attention where it is installed, else PyTorch's kernels."""
    return PACKAGE if importlib.util.find_spec("flash_attn") else NAME


def set_attention(model: Any, name: str) -> None:
    """Give a built model's decoder a registered attention; a config would look for a kernel of that name."""
    model.get_decoder().config._attn_implementation = name
    model.config._attn_implementation_internal = name  # read by generate; the tower keeps its own


functions: dict[str, Kernels] = {}
"""Name of an attention -> its kernels."""

_lazy_imports = modeling_flash_attention_utils._lazy_imports


def _imports(implementation: str | None, *rest: Any, **more: Any) -> Any:
    if implementation not in functions:
        return _lazy_imports(implementation, *rest, **more)
    pads = modeling_flash_attention_utils._pad_input, modeling_flash_attention_utils._unpad_input
    return *functions[implementation], None, *pads


modeling_flash_attention_utils._lazy_imports = _imports
register(NAME, (flash_attn_func, flash_attn_varlen_func))
