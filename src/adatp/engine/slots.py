"""Records which tokens of the complete sequence a layer's cache has slots for."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor


@dataclass(eq=False)
class CacheSlots:
    """Contents of the caches of all layers after one cut.

    Attributes:
        index: (B, n) int64, position of each slot in the complete sequence, FILLER where a row was padded. It
            includes slots that a layer with a sliding window no longer holds.
        end: length of the complete sequence when this was recorded; every later token has its own slot.
        ragged: whether there are fillers.
    """

    index: Tensor
    end: int
    ragged: bool
    _ahead: Tensor | None = field(default=None, init=False, repr=False)

    def count(self, length: int) -> int:
        """Slots in use once the complete sequence is ``length`` tokens long."""
        return self.index.shape[1] + length - self.end

    def until(self, length: int) -> Tensor:
        """(B, slots) positions of the slots in use once the complete sequence is ``length`` tokens long."""
        if length <= self.end:
            return self.index[:, : self.count(length)]
        # Allocate ahead, so that most decode steps only slice.
        if self._ahead is None or self._ahead.shape[1] < self.count(length):
            later = torch.arange(self.end, 2 * length - self.end + 64, device=self.index.device)
            self._ahead = torch.cat([self.index, later.expand(len(self.index), -1)], 1)
        return self._ahead[:, : self.count(length)]

    def last(self, slots: int) -> CacheSlots:
        """Keep only the last ``slots`` slots."""
        return CacheSlots(self.index[:, self.index.shape[1] - slots :], self.end, self.ragged)


def missing_slots(held: CacheSlots | None) -> int:
    """Number of tokens of the complete sequence that a layer's cache lacks; None: it holds every token."""
    return 0 if held is None else held.end - held.index.shape[1]


def map_slots(held: Mapping[int, CacheSlots], change: Callable[[Tensor], Tensor]) -> dict[int, CacheSlots]:
    """Contents of the layers after the rows of the batch have moved.

    Args:
        held: by layer; layers after one cut share one record, before and after.
        change: maps the positions of the slots (B, n) to those of the new rows.
    """
    moved: dict[int, CacheSlots] = {}
    for slots in held.values():
        moved.setdefault(id(slots), CacheSlots(change(slots.index), slots.end, slots.ragged))
    return {layer: moved[id(slots)] for layer, slots in held.items()}


def slots_after(
    held: CacheSlots | None, index: Tensor | None, past: int, length: int, ragged: bool, device: torch.device
) -> CacheSlots:
    """Contents of a layer's cache after a call's tokens have been added.

    Args:
        held: contents before the call; None: every token.
        index: (B, n) positions in the call of the tokens that the layer processes; None: all of them.
        past: length of the complete sequence before the call.
        length: tokens of the call.
        ragged: whether ``index`` has fillers.
        device: device of the positions.
    """
    ragged = ragged or (held is not None and held.ragged)
    if index is not None and not past:
        return CacheSlots(index, length, ragged)
    known = past if index is not None else past + length
    slots = torch.arange(known, device=device)[None] if held is None else held.until(known).to(device)
    if index is not None:
        new = index.where(index < 0, index + past)
        samples = max(len(slots), len(new))
        slots = torch.cat([slots.expand(samples, -1), new.expand(samples, -1)], 1)
    return CacheSlots(slots, past + length, ragged)


def shown_slots(layer: Any, slots: int) -> int:
    """How many of ``slots`` filled slots a cache layer hands on: with a window only the last ones."""
    if not getattr(layer, "is_sliding", False):
        return slots
    window: int = layer.max_cache_len if hasattr(layer, "max_cache_len") else layer.sliding_window
    return min(slots, window - 1)
