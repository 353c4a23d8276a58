"""A cache that records which tokens its layers hold, so that it survives copies, beams and turns."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any, ClassVar, cast

import torch
from torch import Tensor
from transformers import Cache
from transformers.cache_utils import CacheLayerMixin
from typing_extensions import override

from adatp.engine.slots import CacheSlots, map_slots, missing_slots, shown_slots


@dataclass(eq=False)
class Filling:
    """One decoder call, as recorded by the cache that it fills.

    Attributes:
        running: whether the call is in progress; false for an interrupted call.
        begun: whether it has changed the cache.
    """

    running: bool = True
    begun: bool = False


class PrunedCache(Cache):  # type: ignore[misc]
    """Mixed into the class of a cache that was filled under pruning: it records what its layers hold.

    Transformers sizes masks and numbers positions by the first layer that has slots. For it, every layer is
    as long as the complete sequence. Layers of linear attention have no slots: their state is all they hold.
    """

    plain: ClassVar[type]
    """The cache's class before pruning."""
    held: dict[int, CacheSlots]
    """Slots by layer; layers before the first cut are not in it."""
    filling: Filling | None
    """The call that runs on the cache in a pruning context, or that was interrupted."""

    @override
    def __reduce__(self) -> tuple[Any, ...]:
        call = self.filling
        left = None if call is None else Filling(running=False, begun=call.begun)
        return _new_pruned, (self.plain,), {**self.__dict__, "filling": left}

    def _slotted(self, layer: int) -> int:
        """The layer that transformers means by ``layer``: the first layer stands for the first that has
        slots.
        """
        slotted = (number for number, each in enumerate(self.layers) if isinstance(each, CacheLayerMixin))
        return layer or next(slotted, 0)

    @override
    def get_seq_length(self, layer_idx: int = 0) -> Any:
        return super().get_seq_length(layer_idx) + missing_slots(self.held.get(self._slotted(layer_idx)))

    @override
    def get_mask_sizes(self, query_length: Any, layer_idx: int) -> tuple[int, int]:
        length, offset = super().get_mask_sizes(query_length, layer_idx)
        layer = self._slotted(layer_idx)
        slots = self.layers[layer] if layer < len(self.layers) else None  # a dynamic cache may grow
        fixed = getattr(slots, "max_cache_len", None)
        if getattr(slots, "is_sliding", False):
            cached = self.get_seq_length(layer)
            shown = shown_slots(slots, cached)
            return max(shown + query_length, fixed or 0), cached - shown
        return length if fixed is not None else length + missing_slots(self.held.get(layer)), offset

    def check_complete(self) -> None:
        """Refuse to continue with a cache in which some layers have tokens that others lack.

        Raises:
            RuntimeError: a call was interrupted while it filled the cache.
        """
        if self.filling is not None and not self.filling.running and self.filling.begun:
            raise RuntimeError(
                "this cache was left half filled by a call that was interrupted: start again with a new one"
            )

    def _before_change(self) -> None:
        self.check_complete()
        if self.filling is not None and self.filling.running:
            self.filling.begun = True
        elif self.held:
            raise RuntimeError(
                "this cache was filled under pruning, its layers hold different tokens: "
                "go on with it inside `with AdaTP(...)(model):`"
            )

    @override
    def update(self, *args: Any, **kwargs: Any) -> Any:
        self._before_change()
        return super().update(*args, **kwargs)

    @override
    def get_conv_state(self, *args: Any, **kwargs: Any) -> Any:
        self._before_change()  # before linear attention overwrites its state
        return super().get_conv_state(*args, **kwargs)

    @override
    def reorder_cache(self, beam_idx: Tensor) -> None:
        super().reorder_cache(beam_idx)
        self.held = map_slots(self.held, lambda index: index.index_select(0, beam_idx.to(index.device)))

    @override
    def batch_repeat_interleave(self, repeats: int) -> None:
        super().batch_repeat_interleave(repeats)
        self.held = map_slots(self.held, lambda index: index.repeat_interleave(repeats, 0))

    @override
    def batch_select_indices(self, indices: Tensor) -> None:
        super().batch_select_indices(indices)
        self.held = map_slots(self.held, lambda index: index[indices.to(index.device)])

    @override
    def crop(self, max_length: int) -> None:
        """Remove the last tokens. No layer may have dropped any of them.

        Raises:
            ValueError: some layers hold fewer of them than others.
        """
        cached = int(self.get_seq_length())
        # Up to transformers 5.13, a positive number is the length left of the sequence, not of each layer.
        length = min(max_length, cached) if max_length > 0 else cached + max_length
        for slots in {id(slots): slots for slots in self.held.values()}.values():
            last = torch.arange(min(length, slots.end), slots.end, device=slots.index.device)
            if (
                len(last) > slots.index.shape[1]
                or not (slots.index[:, slots.index.shape[1] - len(last) :] == last).all()
            ):
                raise ValueError("a cache filled under pruning can't be cropped to within what was pruned")
        super().crop(length - cached)

    @override
    def reset(self) -> None:
        super().reset()
        self.held, self.filling = {}, None


@cache
def _pruned_class(cls: Any) -> type:
    return type(f"Pruned{cls.__name__}", (PrunedCache, cls), {"plain": cls})


def _new_pruned(cls: Any) -> PrunedCache:
    """An empty cache of the class derived from ``cls``, for copies and for loading."""
    pruned: Any = _pruned_class(cls)
    return cast(PrunedCache, pruned.__new__(pruned))


def adopt(cache: Any, filling: Filling) -> None:
    """Tell a cache about the call that is about to fill it. The first time, it becomes a `PrunedCache`."""
    if not isinstance(cache, PrunedCache):
        cache.__class__ = _pruned_class(cast(Hashable, type(cache)))
        cache.held = {}
    cache.filling = filling


def cache_among(kwargs: Mapping[str, Any]) -> Any:
    """The cache among the arguments of a call, under any name (`cache` from transformers 5.24 on), or
    None.
    """
    return next((value for value in kwargs.values() if isinstance(value, Cache)), None)
