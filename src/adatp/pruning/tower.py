"""Watches a model's inputs, and the features that its vision tower makes of the videos among them."""

from __future__ import annotations

import inspect
import weakref
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from adatp.engine.attention import ReceivedProbe
from adatp.frame_reuse import FrameReuse
from adatp.models import EncoderMethod, Family, TowerCall
from adatp.pruning.encoder import MethodWatch, anchor
from adatp.pruning.timer import Timer
from adatp.report import Stopwatch
from adatp.threads import PerThread
from adatp.uncopied import Uncopied

_VISION = ("pixel_values", "pixel_values_videos", "pixel_values_images", "mm_encoder_outputs")
_VIDEO_METHOD = "get_video_features"
_PIXELS = {"video": "pixel_values_videos", "image": "pixel_values"}


@dataclass(eq=False)
class Encoding:
    """One call of the vision tower, without its pixels, kept as long as its output is in use.

    Attributes:
        kwargs: its keyword arguments except floating-point tensors.
        received: attention that the patches received, if the method reads it.
        output: its return value, or the first tensor of that if it can't be weakly referenced.
        read: what was stored of it; None: the return value itself.
        shapes: shapes of the floating-point tensors among its arguments.
        stopwatch: has timed it; None once a request has taken it.
        scoring_flops: FLOPs of recording ``received``.
        saved_flops: FLOPs that the frames which were not encoded would have taken.
    """

    kwargs: dict[str, Any]
    received: Tensor | None
    output: weakref.ref[Any]
    read: Any
    shapes: dict[str, tuple[int, ...]]
    stopwatch: Stopwatch | None
    scoring_flops: int
    saved_flops: int

    def call(self, output: Any) -> TowerCall:
        """The call in the form that families read."""
        return TowerCall(self.kwargs, output if self.read is None else self.read, self.received, self.shapes)


@dataclass(eq=False)
class _ModelCall:
    """One call of the multimodal model.

    Attributes:
        arguments: its keyword arguments.
        encoded: what the tower returned in it.
    """

    arguments: dict[str, Any] = field(default_factory=dict)
    encoded: Any = None  # older transformers drop it before the decoder runs


class _Present(PerThread):
    """What one thread is processing."""

    def __init__(self) -> None:
        self.call = _ModelCall()
        self.given: Any = None  # encoder outputs that the caller passed in
        self.stopwatch: Stopwatch | None = None


class TowerWatch:
    """Hooks on a multimodal model and its vision tower.

    Args:
        model: the Video LLM.
        family: its family.
        tower: its vision tower, or the method that encodes videos.
        timer: times the tower.
        probe: records the attention that patches receive, if the method reads it.
        reuse: leaves out frames that need no encoding, if requested.
    """

    def __init__(
        self,
        model: Any,
        family: Family,
        tower: nn.Module | EncoderMethod,
        timer: Timer,
        probe: ReceivedProbe | None,
        reuse: FrameReuse | None,
    ) -> None:
        self.model, self.tower, self.timer = model, tower, timer
        self.probe, self.reuse = probe, reuse
        self._kind = family.encoded_as
        self._signature = inspect.signature(model.base_model.forward)
        self._present = _Present()
        self._encodings: dict[int, Encoding] = {}  # by the id of the tower's output, while that lives
        self._handles: list[RemovableHandle | MethodWatch] = []

    def install(self) -> None:
        """Put the hooks in place."""
        keep = self._handles.append
        keep(self.model.register_forward_pre_hook(Uncopied(self._note_given), with_kwargs=True, prepend=True))
        keep(self.model.base_model.register_forward_pre_hook(Uncopied(self._note_call), with_kwargs=True))
        keep(self.model.base_model.register_forward_hook(Uncopied(self._call_is_over), always_call=True))
        if self.probe is not None:
            self.probe.install()
        if isinstance(self.tower, EncoderMethod):
            keep(MethodWatch(self.tower.owner, self.tower.name, self._before_tower, self._after_tower))
            return
        keep(self.tower.register_forward_pre_hook(Uncopied(self._before_tower)))
        if self.reuse is not None:  # between these two: it counts as the tower's time and output
            self.reuse.install()
            if hasattr(self.model.base_model, _VIDEO_METHOD):
                keep(MethodWatch(self.model.base_model, _VIDEO_METHOD, self.reuse.note_videos))
        keep(self.tower.register_forward_hook(Uncopied(self._after_tower), with_kwargs=True))

    def remove(self) -> None:
        """Remove all hooks from the model and its tower."""
        for handle in self._handles:
            handle.remove()
        for part in (self.probe, self.reuse):
            if part is not None:
                part.remove()
        self._handles, self._encodings, self._present = [], {}, _Present()

    @property
    def arguments(self) -> dict[str, Any]:
        """Keyword arguments of the call of the multimodal model that is running in this thread."""
        return self._present.call.arguments

    def forget_interrupted(self, decoder: dict[str, Any]) -> None:
        """Forget a call that was interrupted: torch runs no hook for a KeyboardInterrupt.

        It is one that the decoder's present call does not belong to.

        Args:
            decoder: the keyword arguments of the decoder. The multimodal model gives it embeddings alone.
        """
        given = self.arguments.get("input_ids")
        if given is None:
            given = self.arguments.get("inputs_embeds")
        embeds = decoder.get("inputs_embeds")
        by_itself = decoder.get("input_ids") is not None
        if by_itself or given is None or embeds is None or given.shape[:2] != embeds.shape[:2]:
            self._present.call = _ModelCall()

    @property
    def is_given_vision(self) -> bool:
        """Whether that call has pixels, or features that the tower made of them."""
        return any(self.arguments.get(name) is not None for name in _VISION)

    def video_call(self) -> tuple[Any, Encoding | None]:
        """The encoder of the videos that the decoder is about to read, and the call of the tower that ran it.

        None where there are no videos, and where the tower's call is not known.
        """
        arguments = self.arguments
        encoded = (arguments.get("mm_encoder_outputs") or {}).get(self._kind)
        if arguments.get(_PIXELS[self._kind]) is not None:
            encoded = self._present.call.encoded
        known = anchor(encoded)
        found = self._encodings.get(id(known))
        return encoded, found if found is not None and found.output() is known else None

    def _note_given(self, _: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        self._present.given = kwargs.get("mm_encoder_outputs")

    def _note_call(self, _: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        arguments = dict(self._signature.bind_partial(*args, **kwargs).arguments)
        arguments.update(arguments.pop("kwargs", {}))
        given, self._present.given = self._present.given, None
        if given is not None:  # accelerate moves arguments between devices and passes on copies
            arguments["mm_encoder_outputs"] = given
        self._present.call = _ModelCall(arguments)

    def _call_is_over(self, *_: Any) -> None:
        self._present.call = _ModelCall()

    def _before_tower(self, *_: Any) -> None:
        self._present.stopwatch = self.timer.use(None)
        if self.probe is not None:
            self.probe.disarm()
        self.timer.start("vision")

    def _after_tower(self, _: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
        present = self._present
        self.timer.stop("vision")
        known, encodings = anchor(output), self._encodings
        key = id(known)
        encodings[key] = Encoding(
            {name: value for name, value in kwargs.items() if not _holds_pixels(value)},
            self._received(),
            weakref.ref(known, lambda _: encodings.pop(key, None)),
            self.tower.read(output) if isinstance(self.tower, EncoderMethod) else None,
            {name: tuple(value.shape) for name, value in kwargs.items() if _holds_pixels(value)},
            present.stopwatch,
            self.probe.flops if self.probe is not None else 0,
            self.reuse.saved_flops if self.reuse is not None else 0,
        )
        present.call.encoded = output

    def _received(self) -> Tensor | None:
        """The attention that the patches of all frames received, also of those that were not encoded."""
        if self.probe is None:
            return None
        received = self.probe.take()
        return received if self.reuse is None else self.reuse.spread(received)


def _holds_pixels(value: Any) -> bool:
    return isinstance(value, Tensor) and value.is_floating_point()
