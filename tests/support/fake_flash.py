"""Flash attention on a CPU: transformers' own code over kernels in plain arithmetic.

Only what the package `flash_attn` would bring is replaced, `flash_attn_func` and `flash_attn_varlen_func`.
Masks, padding, caches and packed sequences go the way they go on a GPU. There, in half precision, the
kernels are those that PyTorch ships.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from transformers import AttentionInterface
from transformers.integrations.flash_attention import flash_attention_forward
from transformers.modeling_flash_attention_utils import _is_packed_sequence

import torch_flash

NAME = "fake_flash_attention"


def kernels_of_a_gpu(q: Tensor) -> bool:
    """Whether PyTorch's kernels can take a tensor."""
    return q.is_cuda and q.dtype in (torch.float16, torch.bfloat16)


def flash_attn_func(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    dropout_p: float = 0.0,
    softmax_scale: float | None = None,
    causal: bool = False,
    window_size: tuple[int, int] = (-1, -1),
    softcap: float = 0.0,
    deterministic: bool = False,
) -> Tensor:
    """Attention of (batch, length, heads, width) tensors, causal with respect to the last key."""
    assert dropout_p == softcap == 0
    assert window_size == (-1, -1)
    if kernels_of_a_gpu(q):
        return torch_flash.flash_attn_func(q, k, v, 0.0, softmax_scale, causal)
    query, key, value = (x.transpose(1, 2) for x in (q, k, v))
    groups = query.shape[1] // key.shape[1]
    key, value = (x.repeat_interleave(groups, 1) for x in (key, value))
    logits = query @ key.transpose(2, 3) * (q.shape[-1] ** -0.5 if softmax_scale is None else softmax_scale)
    if causal:
        observed = torch.ones(logits.shape[2:], dtype=torch.bool).tril(logits.shape[3] - logits.shape[2])
        logits = logits.masked_fill(~observed, -torch.inf)
    return (logits.softmax(-1).nan_to_num(0) @ value).transpose(1, 2)  # rows that see nothing come out zero


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
    softcap: float = 0.0,
    deterministic: bool = False,
) -> Tensor:
    """The same of sequences laid side by side, (tokens, heads, width)."""
    if kernels_of_a_gpu(q):
        places = cu_seqlens_q, cu_seqlens_k, max_seqlen_q, max_seqlen_k
        return torch_flash.flash_attn_varlen_func(q, k, v, *places, 0.0, softmax_scale, causal)
    queries, keys = cu_seqlens_q.diff().tolist(), cu_seqlens_k.diff().tolist()
    assert max(queries) <= max_seqlen_q
    assert max(keys) <= max_seqlen_k
    more = (dropout_p, softmax_scale, causal, window_size, softcap, deterministic)
    return torch.cat(
        [
            flash_attn_func(a[None], b[None], c[None], *more)[0]
            for a, b, c in zip(q.split(queries), k.split(keys), v.split(keys), strict=True)
        ]
    )


def _attention(
    module: Any, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, **kwargs: Any
) -> tuple[Tensor, None]:
    assert module.config._attn_implementation == NAME  # the kernel is looked up by it
    if attention_mask is None:  # else several calls would be made of one, on some versions wrong ones
        assert not _is_packed_sequence(kwargs.get("position_ids"), len(query)), "taken for packed sequences"
    return flash_attention_forward(module, query, key, value, attention_mask, **kwargs)


torch_flash.register(NAME, (flash_attn_func, flash_attn_varlen_func))
AttentionInterface.register(NAME, _attention)
