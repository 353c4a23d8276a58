"""The context manager: while it is open, one model prunes; afterwards the model is what it was."""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any, Protocol

from adatp.engine import Engine
from adatp.engine.attention import ReceivedProbe
from adatp.flops import DecoderShape
from adatp.frame_reuse import FrameReuse
from adatp.prefill import PruningMethod
from adatp.pruning.accounting import Accountant
from adatp.pruning.admission import PruningError, check_decoder, claimed, family_for
from adatp.pruning.prompts import PromptReader
from adatp.pruning.requests import Requests
from adatp.pruning.run import Run
from adatp.pruning.timer import Timer
from adatp.pruning.tower import TowerWatch
from adatp.relevance import choose_signal


class Pruner:
    """Prunes one model while its ``with`` block is open. Made by calling a method: ``AdaTP()(model)``."""

    def __init__(
        self,
        method: PruningMethod,
        model: Any,
        processor: Any,
        question: str | Sequence[str] | None,
        reuse_frames: float | None = None,
    ) -> None:
        if reuse_frames is not None and not reuse_frames >= 0:
            raise ValueError(f"reuse_frames is a difference of pixels, at least 0, not {reuse_frames}")
        self._method, self._model, self._reuse_frames = method, model, reuse_frames
        self._family = family_for(model)
        self._tokenizer = getattr(processor, "tokenizer", processor)
        self._questions = [question] if isinstance(question, str) else question
        self._open = ExitStack()

    def __enter__(self) -> Run:
        with ExitStack() as stack:  # whatever raises on the way, nothing stays installed
            run = self._install(stack)
            self._open = stack.pop_all()
        return run

    def __exit__(self, *_: object) -> None:
        self._open.close()

    def _install(self, stack: ExitStack) -> Run:
        model, method, family = self._model, self._method, self._family
        decoder = model.get_decoder()
        stack.enter_context(claimed(model))
        check_decoder(decoder.config)
        shape, tower = DecoderShape.from_config(decoder.config), family.tower(model)
        scored = method.scored_layers(shape)
        reuse = self._frame_reuse(tower)
        signal = choose_signal(method.relevance_signal, model, tower, self._tokenizer, self._questions)
        probe = ReceivedProbe(family.tower_attention_module(model)) if method.tower_attention else None
        every_logit = "logits_to_keep" not in inspect.signature(model.forward).parameters
        run, timer = Run(method), Timer(model.device)
        watch = TowerWatch(model, family, tower, timer, probe, reuse)
        requests = Requests(
            PromptReader(method, model.config, family, shape, signal),
            Accountant(method, model.config, family, shape, signal.kind, every_logit),
            watch,
            timer,
            run,
        )
        engine = Engine(decoder, scored, requests.begin, requests.end, lambda: timer.time("pruning"))
        for part in (engine, watch):
            stack.enter_context(_installed(part))
        stack.enter_context(_not_compiled(model))
        return run

    def _frame_reuse(self, tower: Any) -> FrameReuse | None:
        if self._reuse_frames is None:
            return None
        try:
            return FrameReuse(tower, self._reuse_frames)
        except ValueError as error:
            raise PruningError(str(error)) from None


class _Part(Protocol):
    def install(self) -> None: ...
    def remove(self) -> None: ...


@contextmanager
def _installed(part: _Part) -> Iterator[None]:
    """A part's hooks are in place while the block runs; none stays, even if installing fails midway."""
    try:
        part.install()
        yield
    finally:
        part.remove()


class _PlainCall:
    """Hands out a model's forward as it is. A copy of the model has one that hands out the copy's."""

    def __init__(self, model: Any) -> None:
        self.model = model

    def __call__(self, _: Any) -> Any:
        warnings.warn("decoding is not compiled while the model is being pruned", stacklevel=3)
        return self.model.__call__


@contextmanager
def _not_compiled(model: Any) -> Iterator[None]:
    """Keep ``generate`` from the compiled forward that it takes for static caches on a GPU.

    Made before, it would know nothing of the hooks; made now, it would be traced anew for every length.
    """

    model.get_compiled_call = _PlainCall(model)
    try:
        yield
    finally:
        del model.get_compiled_call
