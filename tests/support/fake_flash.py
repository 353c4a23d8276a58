"""What transformers' flash attention does with masks and position ids, on a CPU, in plain arithmetic."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.masking_utils import flash_attention_mask
from transformers.modeling_flash_attention_utils import _is_packed_sequence

NAME = "fake_flash_attention"


def _attention(
    module: Any, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, **kwargs: Any
) -> tuple[Tensor, None]:
    assert module.config._attn_implementation == NAME  # the kernel is looked up by it
    batch, heads, queries, _ = query.shape
    keys = key.shape[2]
    if attention_mask is None:
        assert not _is_packed_sequence(kwargs.get("position_ids"), batch), "taken for packed sequences"
    else:
        assert attention_mask.shape == (batch, keys)
    key, value = (x.repeat_interleave(heads // key.shape[1], 1) for x in (key, value))
    seen = torch.ones(queries, keys, dtype=torch.bool).tril(keys - queries)  # aligned at the last key
    if attention_mask is not None:
        seen = seen & attention_mask[:, None, None].bool()
    logits = (query @ key.transpose(2, 3) * kwargs["scaling"]).masked_fill(~seen, -torch.inf)
    mixed = logits.softmax(-1).nan_to_num(0) @ value  # rows that see nothing come out zero, as when unpadded
    return mixed.transpose(1, 2).contiguous(), None


AttentionInterface.register(NAME, _attention)
AttentionMaskInterface.register(NAME, flash_attention_mask)
