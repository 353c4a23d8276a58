"""Attention in which many questions share one clip. Each attends to the clip and itself, not to others."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch.utils.checkpoint import checkpoint
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.masking_utils import sdpa_mask

SHARED_PREFIX = "adatp_scenes_shared_prefix"
"""Name under which the attention is registered with transformers."""


def _prefix(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, causal: bool) -> torch.Tensor:
    """Attention of the shared prefix; on a CPU as plain products, in strips if causal.

    In bf16 on a CPU they take half the time of the fused kernel.
    """
    if q.is_cuda:
        return F.scaled_dot_product_attention(q, k, v, is_causal=causal, scale=1.0)
    length = q.shape[2]
    strip = -(-length // 4) if causal else length
    parts = []
    for at in range(0, length, strip):
        end = min(at + strip, length)
        scores = q[:, :, at:end] @ k[:, :, :end].transpose(-1, -2)
        if causal:
            future = torch.ones(scores.shape[-2:], dtype=torch.bool, device=q.device).triu(at + 1)
            scores = scores.masked_fill(future, -torch.inf)
        parts.append(scores.softmax(-1) @ v[:, :, :end])
    return torch.cat(parts, dim=2)


def _questions(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Attention of the questions, each to the prefix and to itself by the mask."""
    blocks, length = mask.shape[1:3]
    prefix = q.shape[2] - blocks * length
    own_q, own_k, own_v = (x[:, :, prefix:].reshape(*x.shape[:2], blocks, length, -1) for x in (q, k, v))
    own = (own_q @ own_k.transpose(-1, -2)).masked_fill(~mask, -torch.inf)
    clip = q[:, :, prefix:] @ k[:, :, :prefix].transpose(-1, -2)
    weights = torch.cat([clip.reshape(*own.shape[:-1], prefix), own], dim=-1).softmax(-1)
    read = weights[..., :prefix].flatten(2, 3) @ v[:, :, :prefix]
    return read + (weights[..., prefix:] @ own_v).flatten(2, 3)


def shared_prefix_attention(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float,
    **_: Any,
) -> tuple[torch.Tensor, None]:
    """Attention of a prefix and of the questions after it.

    Args:
        module: The attention module; its `is_causal` says whether the prefix is causal.
        query: (B, heads, prefix + questions x length, D).
        key: (B, key-value heads, ...), and `value` as well.
        value: See `key`.
        attention_mask: bool (1, questions, length, length), True where a token of a question attends to one
            of its own question; None if there is only a prefix.
        scaling: Factor of the scores.

    Returns:
        (B, prefix + questions x length, heads, D), and None.
    """
    groups = query.shape[1] // key.shape[1]
    q = (query * scaling).to(value.dtype)  # rotary embeddings leave autocast's bf16
    k, v = (x.to(value.dtype).repeat_interleave(groups, dim=1) for x in (key, value))
    blocks, length = (0, 0) if attention_mask is None else attention_mask.shape[1:3]
    prefix = q.shape[2] - blocks * length
    with torch.autocast(query.device.type, enabled=False):
        parts = [_prefix(q[:, :, :prefix], k[:, :, :prefix], v[:, :, :prefix], bool(module.is_causal))]
        if attention_mask is not None and q.is_cuda:  # its weights are large: made again in the backward pass
            parts.append(checkpoint(_questions, q, k, v, attention_mask, use_reentrant=False))
        elif attention_mask is not None:
            parts.append(_questions(q, k, v, attention_mask))
    return torch.cat(parts, dim=2).transpose(1, 2), None


AttentionInterface.register(SHARED_PREFIX, shared_prefix_attention)
AttentionMaskInterface.register(SHARED_PREFIX, sdpa_mask)
