"""The hooks of a decoder's layers: they gather, score and put back."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from adatp.engine.attention import Probe, RowWeights
from adatp.engine.cache import PrunedCache, adopt, cache_among
from adatp.engine.call import DecoderCall
from adatp.engine.checkpointing import HookOutside
from adatp.engine.deepstack import DeepStack
from adatp.engine.kernels import NoPlannedKernels, plans_lengths
from adatp.engine.masks import remap_mask
from adatp.engine.rows import (
    FILLER,
    contiguous_positions,
    gather_rotary,
    gather_tokens,
    merge_rows,
    scatter_rows,
    stack_rows,
    take_rows,
)
from adatp.engine.slots import CacheSlots, shown_slots, slots_after
from adatp.plan import Plan
from adatp.threads import PerThread
from adatp.uncopied import Uncopied

_WITHOUT_KEYS = ("linear_attention", "conv", "mlp", "moe")
"""Kinds of layers that hold a state or nothing instead of keys. They receive only the tokens left."""
_PLACED = {"hidden_states", "attention_mask", "position_ids", "position_embeddings", "cache_position"}
"""Arguments of a layer that have a rule of their own."""


class _Present(PerThread):
    """The call that one thread is processing."""

    call: DecoderCall | None = None


class Engine:
    """The hooks of one decoder.

    Args:
        decoder: the text model, with ``layers``.
        scored: the layers whose attention plans may read.
        begin: called at the start of each call with the decoder's keyword arguments and the cached length.
            Returns the plan, or None to process every token.
        end: called at the end of each call with two arguments: per layer and sample, the positions that were
            processed (None if there was no plan), and the cache that was filled.
        timed: opened around all that pruning adds to a call: scoring, selecting, gathering, scattering back.
    """

    def __init__(
        self,
        decoder: nn.Module,
        scored: Iterable[int],
        begin: Callable[[dict[str, Any], int], Plan | None],
        end: Callable[[list[list[Tensor]] | None, Any], None],
        timed: Callable[[], AbstractContextManager[None]] = nullcontext,
    ) -> None:
        self.decoder = decoder
        self.layers: list[nn.Module] = list(cast(Any, decoder).layers)
        types = getattr(decoder.config, "layer_types", None) or ()
        self.without_keys = frozenset(number for number, kind in enumerate(types) if kind in _WITHOUT_KEYS)
        self.begin = begin
        self.end = end
        self.timed = timed
        self.probes = {layer: Probe(attention_module(self.layers[layer]), timed) for layer in sorted(scored)}
        self.before_layers = [
            HookOutside(layer, partial(self.before_layer, number)) for number, layer in enumerate(self.layers)
        ]
        self.handles: list[RemovableHandle] = []
        self._present = _Present()

    @property
    def call(self) -> DecoderCall | None:
        """The call that this thread is processing."""
        return self._present.call

    @call.setter
    def call(self, call: DecoderCall | None) -> None:
        self._present.call = call

    def install(self) -> None:
        """Install the hooks. If that fails midway, `remove` takes away those that were installed."""
        keep = self.handles.append
        keep(self.decoder.register_forward_pre_hook(Uncopied(self.enter), with_kwargs=True))
        keep(self.decoder.register_forward_hook(Uncopied(self.leave), with_kwargs=True, always_call=True))
        for layer, hook in zip(self.layers, self.before_layers, strict=True):
            keep(layer.register_forward_pre_hook(Uncopied(hook), with_kwargs=True))
        for hook in self.before_layers:
            hook.install()
        for probe in self.probes.values():
            probe.install()

    def remove(self) -> None:
        """Remove all hooks from the model."""
        self._drop_call()
        for handle in self.handles:
            handle.remove()
        for hook in self.before_layers:
            hook.remove()
        for probe in self.probes.values():
            probe.remove()
        self.handles = []

    def _drop_call(self) -> DecoderCall | None:
        """Forget the call. It is over or was interrupted: torch runs no hook for a KeyboardInterrupt."""
        call, self.call = self.call, None
        if call is not None:
            call.filling.running = False
            if call.kernels is not None:
                call.kernels.end()
        for probe in self.probes.values():
            probe.disarm()
        return call

    def enter(
        self, _: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
        """Before the decoder runs: ask for a plan."""
        self._drop_call()
        named = self._named(args, kwargs)
        cache = cache_among(named)
        if isinstance(cache, PrunedCache):
            cache.check_complete()
        past = int(cache.get_seq_length()) if cache is not None else 0
        plan = self.begin(named, past)
        call = self.call = DecoderCall(plan, cache, past)
        if call.uneven and plans_lengths(named["inputs_embeds"].device):
            call.kernels = NoPlannedKernels()
        changed: dict[str, Any] = {}
        if plan is not None or isinstance(cache, PrunedCache):
            if cache is not None:
                adopt(cache, call.filling)
            mask = named.get("attention_mask")
            if past and isinstance(mask, Tensor) and mask.shape == named["inputs_embeds"].shape[:2]:
                # Mask of the new tokens alone. Transformers would take it for that of the sequence's first
                # ones.
                changed["attention_mask"] = F.pad(mask, (past, 0), value=1)
        features = named.get("deepstack_visual_embeds")
        if plan is not None and features:
            # The decoder would add them by positions of the complete sequence. We add them to the tokens
            # left.
            call.deepstack = DeepStack(named["visual_pos_masks"], features)
            changed["deepstack_visual_embeds"] = None
        if not changed:
            return None
        return (), {**self._names(args), **kwargs, **changed}

    def _names(self, args: tuple[Any, ...]) -> dict[str, Any]:
        """The decoder's positional arguments by name."""
        return (
            dict(zip(inspect.signature(self.decoder.forward).parameters, args, strict=False)) if args else {}
        )

    def _named(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
        """The decoder's arguments by name. Embeddings are computed where it is called with token ids."""
        named = {**self._names(args), **kwargs}
        if named.get("inputs_embeds") is None and named.get("input_ids") is not None:
            embed: Callable[[Tensor], Tensor] = cast(Any, self.decoder).get_input_embeddings()
            named["inputs_embeds"] = embed(named["input_ids"])
        return named

    def leave(self, _: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
        """After the decoder: put states back, and report what each layer processed."""
        call, depth = self.call, len(self.layers)
        if call is not None and call.plan is not None and output is not None and depth in call.plan.cuts:
            output.last_hidden_state = self._cut(call, call.plan, depth, output.last_hidden_state)
        self._drop_call()
        if call is None or output is None:  # None while an exception propagates
            return
        if len(call.processed) < depth:
            raise RuntimeError(
                "some layers ran without the hooks that prune them, as code does that was compiled before: "
                "call torch._dynamo.reset() when a context is entered and left, or do not compile"
            )
        if isinstance(call.cache, PrunedCache):
            call.cache.filling = None
        with self.timed() if call.plan is not None else nullcontext():
            self._scatter(call, output)
        self.end([alive for alive, _ in call.processed] if call.plan else None, call.cache)

    def _scatter(self, call: DecoderCall, output: Any) -> None:
        """Put every state back at its position, where callers look for it."""
        if call.index is not None:
            output.last_hidden_state = scatter_rows(output.last_hidden_state, call.index, call.length)
        if output.get("hidden_states") is not None:
            output.hidden_states = tuple(self._complete_states(call, output))

    def _complete_states(self, call: DecoderCall, output: Any) -> Iterator[Tensor | None]:
        """Each hidden state of the decoder's output by positions of the prompt; None where not requested.

        State 0 is the first layer's input, with nothing dropped yet. State l is the output of layer l - 1.
        The last one is the decoder's output.
        """
        for number, state in enumerate(output.hidden_states):
            if state is None:
                yield None
            elif number == 0:
                yield call.embeds
            elif number == len(self.layers):
                yield output.last_hidden_state
            else:
                index = call.processed[number - 1][1]
                yield state if index is None else scatter_rows(state, index, call.length)

    def before_layer(
        self, number: int, _: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
        """Before a layer runs: cut, arm its probe, and pass on the arguments of the tokens left."""
        call = self.call
        if call is None:  # the layer is called by itself
            return None
        hidden: Tensor = args[0] if args else kwargs["hidden_states"]
        if number == 0:
            call.length = hidden.shape[1]
            call.embeds = hidden
            if call.cache is None:  # the decoder made one if it was given none
                call.cache = cache_among(kwargs)
                if call.cache is not None and call.plan is not None:
                    adopt(call.cache, call.filling)
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
            changed = self._remap(call, number, kwargs, hidden.device)
        if not changed and call.deepstack is None:
            return None
        if args:
            return (hidden, *(self._of_tokens(call, value) for value in args[1:])), {**kwargs, **changed}
        return args, {**kwargs, **changed, "hidden_states": hidden}

    def _of_tokens(self, call: DecoderCall, value: Any) -> Any:
        """Reduce another argument of a layer to the tokens that are left, if it has one entry per token."""
        if call.index is None or not isinstance(value, Tensor) or value.ndim < 2:
            return value
        if value.shape[0] != len(call.index) or value.shape[1] != call.length:
            return value
        return call.once(gather_tokens, (value, call.index))

    def _cut(self, call: DecoderCall, plan: Plan, number: int, hidden: Tensor) -> Tensor:
        """Ask the plan which tokens go on, and gather their hidden states."""
        scores = self.probes[number - 1].log_scores if number - 1 in plan.scored else None
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
        rows = stack_rows([call.rows_of(selection.kept, sample) for sample, selection in enumerate(chosen)])
        gathered = take_rows(hidden, rows)
        for sample, selection in enumerate(chosen):
            if selection.into is not None:
                gathered[sample, longest - counts[sample] :] = merge_rows(states[sample], selection)
        call.alive = [selection.kept for selection in chosen]
        call.index = stack_rows(call.alive, FILLER)
        call.ragged = min(counts) < longest
        call.memo.clear()
        return gathered

    def _arm(self, call: DecoderCall, plan: Plan, number: int) -> None:
        """Arm the layer's probe with the plan's query rows."""
        rows = [call.rows_of(positions, sample) for sample, positions in enumerate(plan.queries)]
        if call.weight is None:
            share = [row.new_full(row.shape, 1 / max(1, len(row)), dtype=torch.float32) for row in rows]
            call.weight = RowWeights(stack_rows(share))
        self.probes[number].arm(stack_rows(rows), call.weight, call.past_slots(number))

    def _remap(
        self, call: DecoderCall, number: int, kwargs: dict[str, Any], device: torch.device
    ) -> dict[str, Any]:
        """The layer's keyword arguments, changed to fit the tokens that it processes and holds."""
        if number in self.without_keys:  # no past keys, no positions: fillers are zeroed like padding
            if call.index is None:
                return {}
            return {"attention_mask": call.index >= 0 if call.ragged else None}
        held, mask, layer = call.held(number), kwargs.get("attention_mask"), call.layer_cache(number)
        fixed = getattr(layer, "max_cache_len", None)
        flash = "flash" in str(cast(Any, self.decoder).config._attn_implementation)
        # Flash attention reads a static cache's unused keys unless a mask ends before them.
        causal = mask is None and not (flash and fixed)
        if call.index is None and (held is None or (causal and not held.ragged)):
            return {}
        changed: dict[str, Any] = {}
        if call.index is not None:
            for name in kwargs.keys() - _PLACED:
                changed[name] = self._of_tokens(call, kwargs[name])
            for name, gather in (
                ("position_embeddings", gather_rotary),
                ("position_ids", contiguous_positions),
            ):
                if kwargs.get(name) is not None:
                    changed[name] = call.once(gather, (kwargs[name], call.index))
        if call.index is not None:
            device = call.index.device
        elif kwargs.get("position_embeddings") is not None:  # some layers use no positions
            device = kwargs["position_embeddings"][0].device
        slots: CacheSlots = call.once(
            slots_after, (held, call.index), call.past, call.length, call.ragged, device
        )
        new = call.length if call.index is None else call.index.shape[1]
        shown: CacheSlots = call.once(CacheSlots.last, (slots,), call.past_slots(number) + new)
        first = call.past - shown_slots(layer, call.past)
        changed["attention_mask"] = call.once(
            remap_mask, (mask, shown, call.index), call.past, call.length, first, fixed, flash
        )
        if call.index is not None and call.cache is not None:
            call.cache.held[number] = slots
        return changed


def attention_module(layer: nn.Module) -> nn.Module:
    """The self-attention module of a decoder layer.

    Raises:
        ValueError: the layer has none that the cache knows by a layer number.
    """
    for module in layer.children():
        if hasattr(module, "layer_idx") and hasattr(module, "config"):
            return module
    raise ValueError(f"{type(layer).__name__} has no self-attention that can be scored")
