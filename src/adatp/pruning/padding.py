"""Tells tokens from padding by a call's mask, and one prompt in a row from several by its positions."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor


def real_tokens(attention_mask: Any, input_ids: Tensor, past: int) -> Tensor:
    """(B, L) bool: the tokens of a call that are not padding.

    A mask per query hides padding from all other tokens, but what padding itself attends to differs: nothing,
    itself, all that comes before it, or everything. A token is padding

    - if it does not attend to itself,
    - if it attends to no other token and no other attends to it: whatever it is, it changes nothing,
    - if a later token attends to what it attends to and passes it over,
    - if it attends to everything, later tokens included, and others do not, or attends to such padding.

    The mask can't tell whether the last token of a row is padding that attends to itself and to all others.
    It is padding if it has the id of padding that ends a row of the batch.

    Args:
        attention_mask: the model's mask: None, (B, past + L), (B, L) for the uncached tokens alone, (B or 1,
            heads, L, past + L), or masks by type of layer.
        input_ids: (B, L).
        past: length of the cached sequence.
    """
    length, mask = input_ids.shape[1], _of_all_tokens(attention_mask)
    if mask is None:
        return torch.ones_like(input_ids, dtype=torch.bool)
    mask = mask.to(input_ids.device)
    if mask.ndim == 2:
        first = 0 if mask.shape[1] == length else past
        return mask[:, first : first + length].bool()
    visible = _visible(mask)[:, :, : past + length]
    real = _real_queries(visible, past).expand(len(input_ids), -1)
    if length < 2:
        return real
    known = input_ids[:, -2][~real[:, -2]]
    last = real[:, -1] & ~torch.isin(input_ids[:, -1], known)
    return torch.cat([real[:, :-1], last[:, None]], 1)


def is_packed(arguments: Mapping[str, Any], real: Tensor) -> bool:
    """Whether a row of a call holds several prompts one after the other, as in training without padding.

    Their position ids begin anew where the row began. Within a prompt they may fall, but not so far, where
    the sound of a video stands between its frames. Of several axes the first is that of time.

    Args:
        arguments: arguments of the multimodal model's call.
        real: (B, L) bool: the tokens that are not padding.
    """
    if arguments.get("cu_seq_lens_q") is not None:
        return True
    positions: Tensor | None = arguments.get("position_ids")
    if positions is None or positions.shape[-1] != real.shape[1]:
        return False
    positions = positions.reshape(-1, *positions.shape[-2:])[0].to(real.device)
    begin = torch.where(real, positions, positions.max()).amin(1, keepdim=True)
    anew = (positions.diff() < 0) & (positions[:, 1:] == begin)
    return bool((anew & real[:, 1:] & real[:, :-1]).any())


def real_past(attention_mask: Any, past: int, batch: int, length: int) -> Tensor:
    """(B, past) bool: the tokens before a call that are not padding.

    Args:
        attention_mask: see `real_tokens`; a mask of the call's tokens alone says that there is no padding.
        past: length of the cached sequence.
        batch: rows of the call.
        length: tokens of the call.
    """
    mask = _of_all_tokens(attention_mask)
    if mask is None or mask.shape[-1] < past + length:
        return torch.ones(batch, past, dtype=torch.bool)
    if mask.ndim == 2:
        return mask[:, :past].bool()
    visible = _visible(mask)[:, :, : past + length]
    return (visible & _ordinary(visible)[..., None]).any(1)[:, :past].expand(batch, -1)


def _of_all_tokens(attention_mask: Any) -> Tensor | None:
    """The mask that hides nothing but padding and what comes later."""
    if isinstance(attention_mask, dict):  # masks for a static cache are made in advance
        attention_mask = attention_mask["full_attention"]  # a sliding window's mask leaves out distant tokens
    mask: Tensor | None = attention_mask
    return mask


def _visible(mask: Tensor) -> Tensor:
    """(B or 1, L, S) bool of a mask per query: the keys that each query attends to."""
    visible = mask[:, 0]
    if visible.dtype == torch.bool:  # hidden entries of others have the lowest number, or minus infinity
        return visible
    return visible > torch.finfo(visible.dtype).min / 2


def _ordinary(visible: Tensor) -> Tensor:
    """(B, L) bool: the queries whose keys say something: all but those that see every key.

    Code that may not leave a query without keys shows all keys to padding. Where all queries see every key,
    that is what the mask means.
    """
    every = visible.all(2)
    return ~every | every.all(1, keepdim=True)


def _real_queries(visible: Tensor, past: int) -> Tensor:
    """(B, L) bool: see `real_tokens`."""
    length = visible.shape[1]
    own = visible.diagonal(past, 1, 2)
    ordinary = _ordinary(visible)
    others = visible & ordinary[..., None]
    others.diagonal(past, 1, 2).fill_(False)
    attended = others.any(1)[:, past : past + length]
    alone = (visible.sum(2) <= 1) & ~attended
    real = own & ~alone & (attended | ordinary)
    real[:, -1] = own[:, -1] & ~alone[:, -1]  # the last token sees every key if there is no padding
    for row, token in (real & ~attended).nonzero().tolist():  # the last one, and few others
        shares = (others[row, token + 1 :] & visible[row, token]).any()
        real[row, token] = not shares
    among = visible[:, -1, past : past + length]
    real[:, -1] &= ~(among & ~real)[:, :-1].any(1)
    return real
