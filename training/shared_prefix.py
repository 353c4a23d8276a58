"""Attention for training: all questions on a clip share one pass and do not attend to each other."""

from __future__ import annotations

from typing import Any

import torch
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.masking_utils import sdpa_mask

SHARED_PREFIX = "adatp_shared_prefix"
"""The name under which transformers knows `shared_prefix_attention`."""


def shared_prefix_attention(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float,
    **_: Any,
) -> tuple[torch.Tensor, None]:
    """Attention of a prefix, and of questions after it that attend to it and themselves, not to each other.

    The mask is (1, blocks, length, length): True where a token of a question attends to one of its own
    question. There is none if there is only a prefix, which is causal if the module is. Plain matrix
    products in the type of the query, the causal part in strips: on a CPU in bf16 twice as fast as the fused
    kernel, and other questions cost nothing.
    """
    groups = query.shape[1] // key.shape[1]
    q = (query * scaling).to(value.dtype)  # rotary embeddings leave autocast's bf16
    k, v = (x.to(value.dtype).repeat_interleave(groups, dim=1) for x in (key, value))
    blocks, length = (0, 0) if attention_mask is None else attention_mask.shape[1:3]
    prefix = q.shape[2] - blocks * length
    parts = []
    with torch.autocast(query.device.type, enabled=False):
        strip = -(-prefix // 4) if module.is_causal else prefix
        for at in range(0, prefix, strip):
            end = min(at + strip, prefix)
            scores = q[:, :, at:end] @ k[:, :, :end].transpose(-1, -2)
            if module.is_causal:
                future = torch.ones(scores.shape[-2:], dtype=torch.bool, device=q.device).triu(at + 1)
                scores = scores.masked_fill(future, -torch.inf)
            parts.append(scores.softmax(-1) @ v[:, :, :end])
        if attention_mask is not None:
            own_q, own_k, own_v = (
                x[:, :, prefix:].reshape(*x.shape[:2], blocks, length, -1) for x in (q, k, v)
            )
            own = (own_q @ own_k.transpose(-1, -2)).masked_fill(~attention_mask, -torch.inf)
            back = q[:, :, prefix:] @ k[:, :, :prefix].transpose(-1, -2)
            weights = torch.cat([back.reshape(*own.shape[:-1], prefix), own], dim=-1).softmax(-1)
            read = weights[..., :prefix].flatten(2, 3) @ v[:, :, :prefix]
            parts.append(read + (weights[..., prefix:] @ own_v).flatten(2, 3))
    return torch.cat(parts, dim=2).transpose(1, 2), None


AttentionInterface.register(SHARED_PREFIX, shared_prefix_attention)
AttentionMaskInterface.register(SHARED_PREFIX, sdpa_mask)
