"""The context manager: while it is open, one model prunes. Afterwards the model is as before."""

from __future__ import annotations

import inspect
import warnings
import weakref
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any, Protocol

from adatp.engine import Engine
from adatp.engine.attention import ReceivedProbe
from adatp.errors import PruningError, SettingError
from adatp.flops import DecoderShape
from adatp.frame_reuse import FrameReuse
from adatp.models import EncoderMethod, GeneralRuleError, decoder_of
from adatp.prefill import PruningMethod
from adatp.pruning.accounting import Accountant
from adatp.pruning.admission import check_decoder, claimed, family_for, unwrapped
from adatp.pruning.compiled import uncompiled
from adatp.pruning.copies import clean_copies
from adatp.pruning.prompts import PromptReader
from adatp.pruning.requests import Requests
from adatp.pruning.run import Record, Run
from adatp.pruning.timer import Timer
from adatp.pruning.tower import TowerWatch
from adatp.relevance import choose_signal


class Pruner:
    """Prunes one model while its ``with`` block is open. Made by calling a method: ``AdaTP()(model)``.

    Several threads may generate on the model while the block is open. If a context was entered by hand and is
    lost together with its `Run`, it is closed by itself with a ``ResourceWarning``.
    """

    def __init__(
        self,
        method: PruningMethod,
        model: Any,
        processor: Any,
        question: str | Sequence[str] | None,
        reuse_frames: float | None = None,
        strict: bool = False,
    ) -> None:
        if reuse_frames is not None and not reuse_frames >= 0:
            raise SettingError(f"reuse_frames is a difference of pixels, at least 0, not {reuse_frames}")
        self._method, self._reuse_frames, self._strict = method, reuse_frames, strict
        self._outer, self._model = model, unwrapped(model)
        self._family = family_for(self._model)
        self._processor, self._questions = processor, question
        self._open: ExitStack | None = None

    def __enter__(self) -> Run:
        with ExitStack() as stack:  # if anything raises on the way, nothing stays installed
            run = Run(self._method, self._install(stack), self)
            stack.callback(partial(_let_go, weakref.ref(run)))
            self._open = stack.pop_all()
        self._lost = weakref.finalize(self, _leave_lost, self._open)  # nothing on the stack may hold `self`
        self._lost.atexit = False
        return run

    def __exit__(self, *_: object) -> None:
        if self._open is not None:
            self._lost.detach()
            open_until_now, self._open = self._open, None
            open_until_now.close()

    def _install(self, stack: ExitStack) -> Record:
        model, method, family = self._model, self._method, self._family
        decoder = decoder_of(model)
        stack.enter_context(claimed(model, decoder))
        stack.enter_context(clean_copies(model))
        check_decoder(decoder.config)
        shape, tower = _shape_of(decoder.config), family.tower(model)
        scored = method.scored_layers(shape)
        encoder = family.encoder(model)
        reuse = self._frame_reuse(tower, encoder)
        intro: str = getattr(family, "video_intro", "")
        signal = choose_signal(
            method.relevance_signal,
            model,
            tower,
            self._processor,
            self._questions,
            intro,
            method.pooled_frames,
        )
        probe = ReceivedProbe(family.tower_attention_module(model)) if method.tower_attention else None
        every_logit = "logits_to_keep" not in inspect.signature(model.forward).parameters
        record, timer = Record(), Timer(model.device)
        watch = TowerWatch(model, family, encoder or tower, timer, probe, reuse)
        requests = Requests(
            PromptReader(method, model.config, family, shape, signal, self._strict),
            Accountant(method, model.config, family, shape, signal.kind, every_logit),
            watch,
            timer,
            record,
        )
        engine = Engine(decoder, scored, requests.begin, requests.end, lambda: timer.time("pruning"))
        for part in (engine, watch):
            stack.enter_context(_installed(part))
        stack.enter_context(uncompiled(model, self._outer))
        stack.enter_context(_not_compiled(model))
        return record

    def _frame_reuse(self, tower: Any, encoder: EncoderMethod | None) -> FrameReuse | None:
        if self._reuse_frames is None:
            return None
        if encoder is not None:
            raise GeneralRuleError("the general rule can't reuse frames: leave reuse_frames out")
        return FrameReuse(tower, self._reuse_frames)


def _shape_of(config: Any) -> DecoderShape:
    try:
        return DecoderShape.from_config(config)
    except AttributeError as error:
        raise PruningError(f"the FLOPs of this decoder are not known ({error})") from None


def _let_go(run: weakref.ref[Run]) -> None:
    """Release the context, and with it the model, from a run that stays readable."""
    if (left := run()) is not None:
        left._context = None


def _leave_lost(stack: ExitStack) -> None:
    stack.close()
    warnings.warn("a pruning context was entered and lost: it is left now", ResourceWarning, stacklevel=2)


class _Part(Protocol):
    def install(self) -> None: ...
    def remove(self) -> None: ...


@contextmanager
def _installed(part: _Part) -> Iterator[None]:
    """Keep a part's hooks installed while the block runs. If installing fails midway, none stays."""
    try:
        part.install()
        yield
    finally:
        part.remove()


@contextmanager
def _not_compiled(model: Any) -> Iterator[None]:
    """Keep ``generate`` from the compiled forward that it uses for static caches on a GPU.

    If compiled earlier, it would ignore the hooks. If compiled now, it would be traced again for every
    length.
    """

    def plain_call(_: Any) -> Any:
        warnings.warn("decoding is not compiled while the model is being pruned", stacklevel=3)
        return model.__call__

    model.get_compiled_call = plain_call
    try:
        yield
    finally:
        del model.get_compiled_call
