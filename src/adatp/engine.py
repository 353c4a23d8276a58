"""Drops tokens between decoder layers, exactly.

Every decoder layer of transformers is called ``layer(hidden_states, **kwargs)`` with the rotary embedding,
the mask, position ids and the cache among its arguments. The engine puts a pre-hook on each layer that
gathers the rows of the tokens still processed, and remaps the mask's columns to what that layer's cache
holds, in prefill and in every later step. Kept tokens keep their own rotary positions, also those that others
are averaged into. Which tokens to keep is a plan's business: the engine knows no method and no model family.

What each layer's cache holds is remembered by the cache itself, so it survives copies, beams and turns.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from functools import cache, partial
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle
from transformers import Cache
from transformers.cache_utils import CacheLayerMixin

from adatp.attention import Probe
from adatp.plan import Plan, Selection

FILLER = -1


@dataclass(eq=False)
class Kept:
    """What the cache of every layer behind one cut holds.

    Attributes:
        index: (B, n) int64, position of each slot in the whole sequence, FILLER where a row was padded; also
            of the slots that a layer with a sliding window has let go of by now.
        end: length of the whole sequence when this was recorded; every later token has a slot of its own.
        ragged: whether there are fillers.
    """

    index: Tensor
    end: int
    ragged: bool
    _ahead: Tensor | None = field(default=None, init=False, repr=False)

    def slots(self, seen: int) -> int:
        """Slots in use once the whole sequence is ``seen`` tokens long."""
        return self.index.shape[1] + seen - self.end

    def until(self, seen: int) -> Tensor:
        """(B, slots) positions of the slots in use once the whole sequence is ``seen`` tokens long."""
        if seen <= self.end:
            return self.index[:, : self.slots(seen)]
        # Some way ahead of what decode steps ask for one after the other: most of them take a view.
        if self._ahead is None or self._ahead.shape[1] < self.slots(seen):
            later = torch.arange(self.end, 2 * seen - self.end + 64, device=self.index.device)
            self._ahead = torch.cat([self.index, later.expand(len(self.index), -1)], 1)
        return self._ahead[:, : self.slots(seen)]

    def last(self, slots: int) -> Kept:
        """The last ``slots`` slots alone."""
        return Kept(self.index[:, self.index.shape[1] - slots :], self.end, self.ragged)


class _PrunedCache(Cache):  # type: ignore[misc]
    """Mixed into the class of a cache that was filled under pruning: it remembers what its layers hold.

    To transformers, which sizes masks and numbers positions by the first layer that has slots, every layer is
    as long as the whole sequence. Layers of linear attention have none: their state is all they hold.
    """

    kept: dict[int, Kept]
    entered: bool

    def _slotted(self, layer: int) -> int:
        """The layer that transformers means by ``layer``: by the first one, the first that has slots."""
        slotted = (number for number, each in enumerate(self.layers) if isinstance(each, CacheLayerMixin))
        return layer or next(slotted, 0)

    def _missing(self, layer: int) -> int:
        """Tokens of the whole sequence that the layer has no slot for."""
        kept = self.kept.get(layer)
        return 0 if kept is None else kept.end - kept.index.shape[1]

    def get_seq_length(self, layer_idx: int = 0) -> Any:
        return super().get_seq_length(layer_idx) + self._missing(self._slotted(layer_idx))

    def get_mask_sizes(self, query_length: Any, layer_idx: int) -> tuple[int, int]:
        length, offset = super().get_mask_sizes(query_length, layer_idx)
        layer = self._slotted(layer_idx)
        slots = self.layers[layer]
        fixed = getattr(slots, "max_cache_len", None)
        if getattr(slots, "is_sliding", False):
            whole = self.get_seq_length(layer)
            shown = shown_slots(slots, whole)
            return max(shown + query_length, fixed or 0), whole - shown
        return length if fixed is not None else length + self._missing(layer), offset

    def _map(self, change: Callable[[Tensor], Tensor]) -> None:
        moved: dict[int, Kept] = {}  # layers behind one cut share one record
        for kept in self.kept.values():
            moved.setdefault(id(kept), Kept(change(kept.index), kept.end, kept.ragged))
        self.kept = {layer: moved[id(kept)] for layer, kept in self.kept.items()}

    def _check_entered(self) -> None:
        if self.kept and not self.entered:
            raise RuntimeError(
                "this cache was filled under pruning, its layers hold different tokens: "
                "go on with it inside `with AdaTP(...)(model):`"
            )

    def update(self, *args: Any, **kwargs: Any) -> Any:
        self._check_entered()
        return super().update(*args, **kwargs)

    def get_conv_state(self, *args: Any, **kwargs: Any) -> Any:
        self._check_entered()  # before linear attention overwrites its state
        return super().get_conv_state(*args, **kwargs)

    def reorder_cache(self, beam_idx: Tensor) -> None:
        super().reorder_cache(beam_idx)
        self._map(lambda index: index.index_select(0, beam_idx.to(index.device)))

    def batch_repeat_interleave(self, repeats: int) -> None:
        super().batch_repeat_interleave(repeats)
        self._map(lambda index: index.repeat_interleave(repeats, 0))

    def batch_select_indices(self, indices: Tensor) -> None:
        super().batch_select_indices(indices)
        self._map(lambda index: index[indices.to(index.device)])

    def crop(self, max_length: int) -> None:
        """Take back the last tokens, which no layer may have dropped.

        Raises:
            ValueError: some layers hold fewer of them than others.
        """
        seen = int(self.get_seq_length())
        # Up to transformers 5.13 a positive number is what is left of the whole sequence, not of each layer.
        length = min(max_length, seen) if max_length > 0 else seen + max_length
        for kept in {id(kept): kept for kept in self.kept.values()}.values():
            last = torch.arange(min(length, kept.end), kept.end, device=kept.index.device)
            if (
                len(last) > kept.index.shape[1]
                or not (kept.index[:, kept.index.shape[1] - len(last) :] == last).all()
            ):
                raise ValueError("a cache filled under pruning can't be cropped to within what was pruned")
        super().crop(length - seen)

    def reset(self) -> None:
        super().reset()
        self.kept = {}


@cache
def _remembering(cls: Any) -> type:
    return type(f"Pruned{cls.__name__}", (_PrunedCache, cls), {})


class _DeepStack:
    """Visual features that some decoders add to the visual tokens' states behind each of the first layers.

    Args:
        visual: (B, L) bool, which tokens they are added to.
        features: per layer, (tokens, d), the batch's rows side by side.
    """

    def __init__(self, visual: Tensor, features: Sequence[Tensor]) -> None:
        self.row = (visual.flatten().cumsum(0) - 1).view_as(visual).where(visual, FILLER)
        self.features = features

    def add(self, layer: int, states: Tensor, index: Tensor | None) -> Tensor:
        """States (B, n, d) that ``layer`` left, of the positions ``index`` (None: of all)."""
        if layer >= len(self.features):
            return states
        row = self.row
        if index is not None:
            row = row.gather(1, index.clamp(min=0).to(row.device))  # nobody looks at fillers
        row = row.to(states.device)
        features = self.features[layer].to(states.device, states.dtype)
        return torch.where(row[..., None] >= 0, states + features[row.clamp(min=0)], states)


class _Call:
    """One call of the decoder: what the hooks of its layers share."""

    def __init__(self, plan: Plan | None, cache: Any, past: int) -> None:
        self.plan = plan
        self.cache = cache
        self.past = past
        self.kept: dict[int, Kept] = dict(cache.kept) if isinstance(cache, _PrunedCache) else {}
        self.length = 0  # tokens of this call
        self.alive: list[Tensor] = list(plan.real) if plan else []
        self.index: Tensor | None = None  # (B, n) positions still processed, FILLER padded; None: all
        self.ragged = False
        self.processed: list[tuple[list[Tensor], Tensor | None]] = []  # per layer that ran: alive, index
        self.deepstack: _DeepStack | None = None
        self.weight: Tensor | None = None  # of the query rows that are scored
        self.memo: dict[tuple[object, ...], Any] = {}  # what the current cut made of shared arguments

    def held(self, layer: int) -> Kept | None:
        """What the layer's cache held before this call; None: every token."""
        return self.kept.get(layer)

    def layer_cache(self, layer: int) -> Any:
        """The layer's part of the cache; None if there is none, or none yet: a dynamic cache may grow."""
        layers = self.cache.layers[layer:] if self.cache is not None else []
        return layers[0] if layers else None

    def past_slots(self, layer: int) -> int:
        """Slots filled before this call that the layer's cache hands on to it."""
        held = self.held(layer)
        return shown_slots(self.layer_cache(layer), self.past if held is None else held.slots(self.past))

    def rows_of(self, positions: Tensor, sample: int) -> Tensor:
        """Where the layer about to run has ``positions`` of ``sample``, as rows of its hidden states."""
        if self.index is None:
            return positions
        alive = self.alive[sample]
        rows, fillers = torch.searchsorted(alive, positions), self.index.shape[1] - len(alive)
        return rows + fillers if fillers else rows

    def rows_alive(self, sample: int, length: int) -> Tensor | slice:
        """Where a layer's states of ``length`` rows have all that is alive of ``sample``."""
        alive = self.alive[sample]
        if self.index is None and len(alive) < length:  # the call's own padding, wherever it is
            return alive
        return slice(length - len(alive), length)  # a view: most plans do not look at the states

    def once(self, make: Callable[..., Any], shared: tuple[Any, ...], *rest: Any) -> Any:
        """``make(*shared, *rest)``, made once for all the layers that come with the same of both."""
        key = (make.__name__, *map(id, shared), *rest)
        if key not in self.memo:
            # Holding on to `shared` keeps its ids from being given to other objects.
            self.memo[key] = make(*shared, *rest), shared
        return self.memo[key][0]


class Engine:
    """The hooks of one decoder.

    Args:
        decoder: the text model, with ``layers``.
        scored: the layers that plans may ask the attention of.
        begin: called at the start of each call with the decoder's keyword arguments and the length of what
            is cached; returns the plan, or None to process every token.
        end: called at the end of each call with, per layer and sample, the positions it processed; None if
            there was no plan.
        timed: opened around all that pruning adds to a call: scoring, selecting, gathering, scattering back.
    """

    def __init__(
        self,
        decoder: nn.Module,
        scored: Iterable[int],
        begin: Callable[[dict[str, Any], int], Plan | None],
        end: Callable[[list[list[Tensor]] | None], None],
        timed: Callable[[], AbstractContextManager[None]] = nullcontext,
    ) -> None:
        self.decoder = decoder
        self.layers: list[nn.Module] = list(cast(Any, decoder).layers)
        types = getattr(decoder.config, "layer_types", None) or ()
        self.linear = frozenset(number for number, kind in enumerate(types) if kind == "linear_attention")
        self.begin = begin
        self.end = end
        self.timed = timed
        self.probes = {layer: Probe(attention_module(self.layers[layer]), timed) for layer in sorted(scored)}
        self.handles: list[RemovableHandle] = []
        self.call: _Call | None = None

    def install(self) -> None:
        """Put the hooks in place."""
        self.handles = [
            self.decoder.register_forward_pre_hook(self._enter, with_kwargs=True),
            self.decoder.register_forward_hook(self._leave, with_kwargs=True, always_call=True),
            *(
                layer.register_forward_pre_hook(partial(self._before, number), with_kwargs=True)
                for number, layer in enumerate(self.layers)
            ),
        ]
        for probe in self.probes.values():
            probe.install()

    def remove(self) -> None:
        """Take everything away again."""
        for handle in self.handles:
            handle.remove()
        for probe in self.probes.values():
            probe.remove()
        self.handles, self.call = [], None

    def _enter(
        self, _: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
        cache = _cache_among(kwargs)
        past = int(cache.get_seq_length()) if cache is not None else 0
        self.call = _Call(self.begin(kwargs, past), cache, past)
        if isinstance(cache, _PrunedCache):
            cache.entered = True
        features = kwargs.get("deepstack_visual_embeds")
        if self.call.plan is None or not features:
            return None
        # The decoder would add them by the whole sequence's positions: we add them, to what is left.
        self.call.deepstack = _DeepStack(kwargs["visual_pos_masks"], features)
        return args, {**kwargs, "deepstack_visual_embeds": None}

    def _leave(self, _: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
        call, self.call = self.call, None
        depth = len(self.layers)
        if call is not None and call.plan is not None and output is not None and depth in call.plan.cuts:
            output.last_hidden_state = self._cut(call, call.plan, depth, output.last_hidden_state)
        for probe in self.probes.values():
            probe.disarm()
        if call is None:
            return
        if isinstance(call.cache, _PrunedCache):
            call.cache.entered = False
        if output is None:  # an exception is on its way out
            return
        if len(call.processed) < depth:
            raise RuntimeError(
                "some layers ran without the hooks that prune them, as code does that was compiled before: "
                "call torch._dynamo.reset() when a context is entered and left, or do not compile"
            )
        with self.timed() if call.plan is not None else nullcontext():
            self._scatter(call, output)
        self.end([alive for alive, _ in call.processed] if call.plan else None)

    def _scatter(self, call: _Call, output: Any) -> None:
        """Put every state back where callers look for it by position."""
        if call.index is not None:
            output.last_hidden_state = scatter_rows(output.last_hidden_state, call.index, call.length)
        if output.get("hidden_states") is not None:
            # The state in front of layer l is what layer l - 1 left; the last one is the decoder's output.
            made_by = [None, *(index for _, index in call.processed[:-1])]
            states = [
                state if state is None or index is None else scatter_rows(state, index, call.length)
                for state, index in zip(output.hidden_states[:-1], made_by, strict=True)
            ]
            output.hidden_states = (*states, output.last_hidden_state)

    def _before(
        self, number: int, _: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
        call = self.call
        if call is None:  # the layer is called by itself
            return None
        hidden: Tensor = args[0] if args else kwargs["hidden_states"]
        if number == 0:
            call.length = hidden.shape[1]
            if call.cache is None:  # the decoder has made one if it was given none
                call.cache = _cache_among(kwargs)
        elif call.deepstack is not None:
            hidden = call.deepstack.add(number - 1, hidden, call.index)
        plan = call.plan
        busy = plan is not None and (number in plan.cuts or number in plan.scored)
        with self.timed() if busy else nullcontext():
            if plan is not None and number in plan.cuts:
                hidden = self._cut(call, plan, number, hidden)
            call.processed.append((call.alive, call.index))
            if plan is not None and number in plan.scored:
                self._arm(call, plan, number)
            changed = self._remap(call, number, kwargs)
        if not changed and call.deepstack is None:
            return None
        if args:
            return (hidden, *args[1:]), {**kwargs, **changed}
        return args, {**kwargs, **changed, "hidden_states": hidden}

    def _cut(self, call: _Call, plan: Plan, number: int, hidden: Tensor) -> Tensor:
        """Ask the plan which tokens go on and gather their hidden states."""
        scores = self.probes[number - 1].scores if number - 1 in plan.scored else None
        if scores is not None:  # layers may lie on several devices
            scores = scores.to(call.alive[0].device)
        states, chosen = [], []
        for sample, alive in enumerate(call.alive):
            rows = call.rows_alive(sample, hidden.shape[1])
            received = None if scores is None else scores[sample, call.past_slots(number - 1) :][rows]
            states.append(hidden[sample, rows if isinstance(rows, slice) else rows.to(hidden.device)])
            with torch.no_grad():
                chosen.append(plan.select(number, sample, alive, received, states[-1].detach()))
        counts = [len(selection.kept) for selection in chosen]
        if counts == [len(alive) for alive in call.alive]:
            return hidden
        longest = max(counts)
        # A filler copies the first row.
        rows = _stacked([call.rows_of(selection.kept, sample) for sample, selection in enumerate(chosen)])
        gathered = take_rows(hidden, rows)
        for sample, selection in enumerate(chosen):
            if selection.into is not None:
                gathered[sample, longest - counts[sample] :] = merge_rows(states[sample], selection)
        call.alive = [selection.kept for selection in chosen]
        call.index = _stacked(call.alive, FILLER)
        call.ragged = min(counts) < longest
        call.memo.clear()
        return gathered

    def _arm(self, call: _Call, plan: Plan, number: int) -> None:
        """Have the layer score the plan's query rows."""
        rows = [call.rows_of(positions, sample) for sample, positions in enumerate(plan.queries)]
        if call.weight is None:
            call.weight = _stacked(
                [torch.full((len(row),), 1 / max(1, len(row)), device=row.device) for row in rows]
            )
        self.probes[number].arm(_stacked(rows), call.weight, call.past_slots(number))

    def _remap(self, call: _Call, number: int, kwargs: dict[str, Any]) -> dict[str, Any]:
        """The layer's keyword arguments as the tokens that it processes and holds need them."""
        if number in self.linear:  # no keys of the past, no positions: fillers are zeroed as padding is
            if call.index is None:
                return {}
            return {"attention_mask": call.index >= 0 if call.ragged else None}
        held, mask = call.held(number), kwargs.get("attention_mask")
        if call.index is None and (held is None or (mask is None and not held.ragged)):
            return {}
        changed: dict[str, Any] = {}
        if call.index is not None:
            for name, gather in (("position_embeddings", _gather_rotary), ("position_ids", _contiguous)):
                if kwargs.get(name) is not None:
                    changed[name] = call.once(gather, (kwargs[name], call.index))
        device = kwargs["position_embeddings"][0].device if call.index is None else call.index.device
        kept: Kept = call.once(_hold, (held, call.index), call.past, call.length, call.ragged, device)
        layer = call.layer_cache(number)
        new = call.length if call.index is None else call.index.shape[1]
        shown: Kept = call.once(Kept.last, (kept,), call.past_slots(number) + new)
        first = call.past - shown_slots(layer, call.past)
        fixed = getattr(layer, "max_cache_len", None)
        flash = "flash" in str(cast(Any, self.decoder).config._attn_implementation)
        changed["attention_mask"] = call.once(
            remap_mask, (mask, shown, call.index), call.past, call.length, first, fixed, flash
        )
        if call.index is not None and call.cache is not None:
            _remember(call.cache, number, kept)
        return changed


def attention_module(layer: nn.Module) -> nn.Module:
    """The self-attention of a decoder layer.

    Raises:
        ValueError: the layer has none that the cache knows by a layer number.
    """
    for module in layer.children():
        if hasattr(module, "layer_idx") and hasattr(module, "config"):
            return module
    raise ValueError(f"{type(layer).__name__} has no self-attention that can be scored")


def _stacked(rows: Sequence[Tensor], fill: int = 0) -> Tensor:
    """(B, n) of rows of up to n elements, the shorter ones filled on the left."""
    longest = max(map(len, rows))
    filled = [F.pad(row, (longest - len(row), 0), value=fill) if len(row) < longest else row for row in rows]
    return torch.stack(filled) if len(filled) > 1 else filled[0][None]


def take_rows(states: Tensor, rows: Tensor) -> Tensor:
    """Rows (B, n) int64 of states (B, L, ...)."""
    if len(rows) == 1:
        return states.index_select(1, rows[0].to(states.device))
    samples = torch.arange(len(rows), device=states.device)[:, None]
    return states[samples, rows.to(states.device)]


def merge_rows(states: Tensor, selection: Selection) -> Tensor:
    """The kept rows of states (n, d), each the mean of the rows merged into it, its own included: (k, d).

    Sums are taken in float32 at least. A row that nothing is merged into stays as it is, to the bit.
    """
    assert selection.into is not None
    into = selection.into.to(states.device)
    order = into.argsort(stable=True)
    order = order[int((into < 0).sum()) :]
    sizes = into[order].bincount(minlength=len(selection.kept))
    grouped = states[order].to(torch.promote_types(states.dtype, torch.float32))
    # Not index_add: on a GPU its order of summation, and with it the rounding, changes from run to run.
    mean = torch.segment_reduce(grouped, "mean", lengths=sizes)
    return mean.to(states.dtype)


def scatter_rows(states: Tensor, index: Tensor, length: int) -> Tensor:
    """Put states (B, n, d) at their positions ``index`` (B, n) of ``length``; zeros elsewhere.

    Fillers (negative positions) fall away.
    """
    index = index.to(states.device)
    samples = torch.arange(len(index), device=states.device)[:, None]
    full = states.new_zeros(len(index), length + 1, states.shape[2])
    full[samples, index.where(index >= 0, length)] = states
    return full[:, :length]


def remap_mask(
    mask: Tensor | None,
    kept: Kept,
    index: Tensor | None,
    past: int,
    length: int,
    first: int,
    fixed: int | None,
    flash: bool,
) -> Tensor | None:
    """An attention mask of the whole sequence, as one layer's queries and keys need it.

    Args:
        mask: None (causal), (B, S) padding (flash attention), or (B or 1, heads or 1, length, S), boolean or
            additive; S positions of the whole sequence, and unused ones behind it for a static cache.
        kept: the slots that the layer's cache hands out, this call's tokens included.
        index: (B, n) positions in this call of the layer's queries, FILLER where padded; None: all of them.
        past: length of the sequence before this call.
        length: tokens of this call.
        first: position of the mask's first column; what is in front of it is out of a sliding window.
        fixed: number of keys of a static cache at least, None if the cache grows.
        flash: whether padding masks are two-dimensional.

    Returns:
        A mask of the same kind, or None where causality alone is right. Fillers are hidden from all
        other tokens; each sees itself at least, for a softmax over nothing is no number.
    """
    if mask is None and not kept.ragged:
        return None
    columns = kept.index
    if fixed is not None and fixed > columns.shape[1]:
        columns = F.pad(columns, (0, fixed - columns.shape[1]), value=FILLER)
    gone = columns < first  # fillers among them
    at = (columns - first if first else columns).clamp(min=0)
    hidden: float
    seen: float
    if flash:
        if mask is None:
            return ~gone
        return mask.gather(1, at.to(mask.device).expand(len(mask), -1)).masked_fill(gone.to(mask.device), 0)
    samples = max(len(part) for part in (index, columns, mask) if part is not None)
    at, gone = at.expand(samples, -1), gone.expand(samples, -1)
    if index is not None:
        index = index.expand(samples, -1)
    if mask is None:
        hidden, seen = False, True
        row = torch.arange(length, device=columns.device)[None] if index is None else index
        picked = (at[:, None] + first <= row[..., None] + past)[:, None]
    else:
        hidden, seen = (False, True) if mask.dtype == torch.bool else (torch.finfo(mask.dtype).min, 0)
        rows = mask.expand(samples, -1, -1, -1)
        if index is not None:
            rows = take_rows(rows.transpose(1, 2), index.clamp(min=0)).transpose(1, 2)
        picked = rows.gather(3, at[:, None, None].to(mask.device).expand(*rows.shape[:3], -1))
    picked = picked.masked_fill(gone[:, None, None].to(picked.device), hidden)
    if index is not None and kept.ragged:  # a view of what each query sees of itself: no GPU is waited for
        own = picked.diagonal(kept.slots(kept.end) - index.shape[1], 2, 3)
        own.masked_fill_((index < 0)[:, None].to(picked.device), seen)
    return picked


def shown_slots(layer: Any, slots: int) -> int:
    """Of ``slots`` filled slots of a cache's layer, those it hands on: with a window only the last."""
    if not getattr(layer, "is_sliding", False):
        return slots
    window: int = layer.max_cache_len if hasattr(layer, "max_cache_len") else layer.sliding_window
    return min(slots, window - 1)


def _hold(
    held: Kept | None, index: Tensor | None, past: int, length: int, ragged: bool, device: torch.device
) -> Kept:
    """What a layer's cache holds once this call's tokens are in it."""
    ragged = ragged or (held is not None and held.ragged)
    if index is not None and not past:
        return Kept(index, length, ragged)
    seen = past if index is not None else past + length
    slots = torch.arange(seen, device=device)[None] if held is None else held.until(seen).to(device)
    if index is not None:
        new = index.where(index < 0, index + past)
        samples = max(len(slots), len(new))
        slots = torch.cat([slots.expand(samples, -1), new.expand(samples, -1)], 1)
    return Kept(slots, past + length, ragged)


def _cache_among(kwargs: dict[str, Any]) -> Any:
    # Under any name: `past_key_values` is `cache` from transformers 5.24 on.
    return next((value for value in kwargs.values() if isinstance(value, Cache)), None)


def _remember(cache: Any, layer: int, kept: Kept) -> None:
    if not isinstance(cache, _PrunedCache):
        cache.__class__ = _remembering(cast(Hashable, type(cache)))
        cache.kept, cache.entered = {}, True
    cache.kept[layer] = kept


def _gather_rotary(rotary: tuple[Tensor, ...], index: Tensor) -> tuple[Tensor, ...]:
    # (B or 1, L, d); transformers 5.5 still has the axes of multimodal rotary embeddings in front, unmerged.
    rows = index.clamp(min=0)

    def gather(part: Tensor) -> Tensor:
        if len(rows) == 1:
            return part.index_select(-2, rows[0].to(part.device))
        part = part.expand(*part.shape[:-3], len(rows), -1, -1)
        at = rows.to(part.device)[..., None].expand(*part.shape[:-2], -1, part.shape[-1])
        return part.gather(-2, at)

    return tuple(gather(part) for part in rotary)


def _contiguous(position_ids: Tensor, index: Tensor) -> Tensor:
    # Only the packed-sequence check of flash attention reads these: gaps would look like several sequences.
    steps = torch.arange(index.shape[1], device=position_ids.device)
    return position_ids[..., :1] + steps
