"""State that the hooks of one decoder call share."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor

from adatp.engine.attention import RowWeights
from adatp.engine.cache import Filling, PrunedCache
from adatp.engine.deepstack import DeepStack
from adatp.engine.kernels import NoPlannedKernels
from adatp.engine.rows import rows_of
from adatp.engine.slots import CacheSlots, shown_slots
from adatp.plan import Plan


class DecoderCall:
    """One call of the decoder: the state that the hooks of its layers share."""

    def __init__(self, plan: Plan | None, cache: Any, past: int) -> None:
        self.plan = plan
        self.cache = cache
        self.past = past
        self.filling = Filling()
        self.embeds: Tensor | None = None  # the first layer's input, before any cut
        self._held: dict[int, CacheSlots] = dict(cache.held) if isinstance(cache, PrunedCache) else {}
        self.length = 0  # tokens of this call
        self.alive: list[Tensor] = list(plan.real) if plan else []
        self.index: Tensor | None = None  # (B, n) positions still processed, FILLER padded; None: all
        self.ragged = False
        self.processed: list[tuple[list[Tensor], Tensor | None]] = []  # per layer that ran: alive, index
        self.deepstack: DeepStack | None = None
        self.weight: RowWeights | None = None  # of the query rows that are scored
        self.kernels: NoPlannedKernels | None = None  # from the call's start to its end
        self.memo: dict[tuple[object, ...], Any] = {}  # shared arguments as the current cut made them

    @property
    def uneven(self) -> bool:
        """Whether layers may process or hold different numbers of tokens."""
        return bool(self._held) or (self.plan is not None and bool(self.plan.cuts))

    def held(self, layer: int) -> CacheSlots | None:
        """Slots of the layer's cache before this call; None: it holds every token."""
        return self._held.get(layer)

    def layer_cache(self, layer: int) -> Any:
        """The layer's part of the cache. None if there is none, or none yet: a dynamic cache may grow."""
        layers = self.cache.layers[layer:] if self.cache is not None else []
        return layers[0] if layers else None

    def past_slots(self, layer: int) -> int:
        """Slots filled before this call that the layer's cache hands on to it."""
        held = self.held(layer)
        return shown_slots(self.layer_cache(layer), self.past if held is None else held.count(self.past))

    def rows_of(self, positions: Tensor, sample: int) -> Tensor:
        """Rows (k,) of the next layer's hidden states that hold ``positions`` (k,) of ``sample``."""
        if self.index is None:
            return positions
        return rows_of(positions, self.alive[sample], self.index.shape[1])

    def rows_alive(self, sample: int, length: int) -> Tensor | slice:
        """Rows (n,) of a layer's states (``length`` rows) that hold all alive tokens of ``sample``."""
        alive = self.alive[sample]
        if self.index is None and len(alive) < length:  # the call's own padding, wherever it is
            return alive
        return slice(length - len(alive), length)  # a view: most plans do not read the states

    def once(self, make: Callable[..., Any], shared: tuple[Any, ...], *rest: Any) -> Any:
        """``make(*shared, *rest)``, computed once for all layers with the same arguments."""
        key = (make.__name__, *map(id, shared), *rest)
        if key not in self.memo:
            # A reference to `shared` keeps its ids from being reused by other objects.
            self.memo[key] = make(*shared, *rest), shared
        return self.memo[key][0]
