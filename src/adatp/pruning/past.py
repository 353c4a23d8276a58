"""Reads what the layers' caches hold of the sequence before a prompt."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from adatp.engine.cache import PrunedCache
from adatp.engine.slots import CacheSlots
from adatp.pruning.padding import real_past


@dataclass(frozen=True)
class Past:
    """The sequence before a prompt.

    Attributes:
        length: tokens, pads included.
        tokens: (B,) tokens of each row, pads excluded.
        held: for each row, how many of them each layer has; empty: every layer has all.
        slots: cache slots in use in each layer, pads and fillers included; empty: ``length`` in each.
    """

    length: int
    tokens: Sequence[int]
    held: Sequence[tuple[int, ...]]
    slots: Sequence[int]

    def slots_by(self, layers: int) -> Sequence[int]:
        """Slots in use in each of ``layers`` layers."""
        return self.slots or [self.length] * layers


def past_of(cache: Any, length: int, mask: Any, call: tuple[int, int], layers: int) -> Past:
    """Read what a cache holds of the sequence.

    Args:
        cache: the call's cache, if any.
        length: length of the sequence before the call.
        mask: the call's attention mask, as the multimodal model received it; None: there are no pads.
        call: rows and columns of the call's tokens.
        layers: number of decoder layers.
    """
    batch, new = call
    if not length:
        return Past(0, [0] * batch, [()] * batch, ())
    real = real_past(mask, length, batch, new)
    held: dict[int, CacheSlots] = cache.held if isinstance(cache, PrunedCache) else {}
    distinct = {id(slots): slots for slots in held.values()}
    counted = [real.sum(1), *(_held(slots.until(length), real) for slots in distinct.values())]
    everything, *by_slots = torch.stack([count.to(real.device) for count in counted]).tolist()
    if not held:
        return Past(length, everything, [()] * batch, ())
    number = {key: place for place, key in enumerate(distinct)}
    of_layer = [by_slots[number[id(held[layer])]] if layer in held else everything for layer in range(layers)]
    slots = [held[layer].count(length) if layer in held else length for layer in range(layers)]
    return Past(length, everything, [tuple(row) for row in zip(*of_layer, strict=True)], slots)


def _held(index: Tensor, real: Tensor) -> Tensor:
    """(B,) tokens of each row that are neither pads nor fillers, of slots (B or 1, n)."""
    real = real.to(index.device)
    index = index.expand(len(real), -1)
    return (real.gather(1, index.clamp(min=0)) & (index >= 0)).sum(1)
