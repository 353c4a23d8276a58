"""Watches what a model is given, and what its vision tower makes of the videos among it."""

from __future__ import annotations

import inspect
import weakref
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from adatp.engine.attention import ReceivedProbe
from adatp.frame_reuse import FrameReuse
from adatp.models import Family, TowerCall
from adatp.pruning.timer import Timer

_VISION = ("pixel_values", "pixel_values_videos", "pixel_values_images", "mm_encoder_outputs")
_PIXELS = {"video": "pixel_values_videos", "image": "pixel_values"}


@dataclass(eq=False)
class _ModelCall:
    """One call of the multimodal model.

    Attributes:
        arguments: its keyword arguments.
        encoded: what the tower returned in it.
    """

    arguments: dict[str, Any] = field(default_factory=dict)
    encoded: Any = None  # older transformers let go of it before the decoder runs


class TowerWatch:
    """Hooks on a multimodal model and its vision tower.

    Args:
        model: the Video LLM.
        family: its family.
        tower: its vision tower.
        timer: times the tower.
        probe: records the attention that patches receive, if the method reads it.
        reuse: leaves out frames that need no encoding, if asked for.
    """

    def __init__(
        self,
        model: Any,
        family: Family,
        tower: nn.Module,
        timer: Timer,
        probe: ReceivedProbe | None,
        reuse: FrameReuse | None,
    ) -> None:
        self.model, self.tower, self.timer = model, tower, timer
        self.probe, self.reuse = probe, reuse
        self._kind = family.encoded_as
        self._signature = inspect.signature(model.base_model.forward)
        self._call = _ModelCall()
        self._given: Any = None  # encoder outputs that the caller handed in
        self._tower_calls: list[tuple[dict[str, Any], Tensor | None, weakref.ref[Any]]] = []
        self._unread = False
        self._handles: list[RemovableHandle] = []

    def install(self) -> None:
        """Put the hooks in place."""
        keep = self._handles.append
        keep(self.model.register_forward_pre_hook(self._note_given, with_kwargs=True, prepend=True))
        keep(self.model.base_model.register_forward_pre_hook(self._note_call, with_kwargs=True))
        if self.probe is not None:
            self.probe.install()
        keep(self.tower.register_forward_pre_hook(self._before_tower))
        if self.reuse is not None:  # between these two: its time is the tower's, its output too
            self.reuse.install()
        keep(self.tower.register_forward_hook(self._after_tower, with_kwargs=True))

    def remove(self) -> None:
        """Take everything away again."""
        for handle in self._handles:
            handle.remove()
        for part in (self.probe, self.reuse):
            if part is not None:
                part.remove()
        self._handles, self._tower_calls = [], []
        self._call, self._given = _ModelCall(), None

    @property
    def arguments(self) -> dict[str, Any]:
        """Keyword arguments of the call of the multimodal model that is running."""
        return self._call.arguments

    def in_chunks(self) -> bool:
        """Whether the tower has encoded something, since last asked, that the call does not carry."""
        unread, self._unread = self._unread, False
        return unread and not any(self._call.arguments.get(name) is not None for name in _VISION)

    def video_call(self) -> tuple[bool, TowerCall | None]:
        """Whether the decoder is about to read videos, and the tower's call that encoded them, if known."""
        arguments = self._call.arguments
        encoded = (arguments.get("mm_encoder_outputs") or {}).get(self._kind)
        if arguments.get(_PIXELS[self._kind]) is not None:
            encoded = self._call.encoded
        if encoded is None:
            return False, None
        found = [
            TowerCall(kwargs, encoded, received)
            for kwargs, received, output in self._tower_calls
            if output() is encoded
        ]
        return True, found[0] if found else None

    def forget(self) -> None:
        """The running call is over."""
        self._call = _ModelCall()

    def _note_given(self, _: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        self._given = kwargs.get("mm_encoder_outputs")

    def _note_call(self, _: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        arguments = dict(self._signature.bind_partial(*args, **kwargs).arguments)
        arguments.update(arguments.pop("kwargs", {}))
        if self._given is not None:  # accelerate, which moves arguments between devices, hands on copies
            arguments["mm_encoder_outputs"], self._given = self._given, None
        self._call.arguments = arguments

    def _before_tower(self, *_: Any) -> None:
        self.timer.new_request()
        if self.probe is not None:
            self.probe.disarm()
        self.timer.start("vision")

    def _after_tower(self, _: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
        self.timer.stop("vision")
        received = self.probe.take() if self.probe is not None else None
        call = kwargs, received, weakref.ref(output)
        self._tower_calls = [*self._tower_calls[-1:], call]  # images, then videos
        self._unread = True
        self._call.encoded = output
