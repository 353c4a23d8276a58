"""The interface between a pruning context and its method: the prompts of one prefill, and the method's
protocol.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from torch import Tensor

from adatp.flops import DecoderShape
from adatp.layout import VideoLayout
from adatp.plan import Plan


@dataclass(frozen=True, eq=False)
class Prefill:
    """What a method can know of the prompts before the decoder reads them.

    Attributes:
        shape: sizes of the decoder.
        layouts: one per sample.
        frame_features: for a sample, the (frames, d) features of its frames, pooled over positions. They are
            the vision tower's, before the projector.
        relevance: for a sample, the (frames,) relevance of its frames to its question by the run's signal, in
            that signal's own scale; None if the signal is not known before the decoder runs.
        tower_attention: for a sample, the (n,) float32 attention that each visual token's patches receive in
            the layer of the vision tower whose output is projected: the softmax's mean over heads and query
            patches, and over the patches that make up a token. Only for methods that set ``tower_attention``.
        frame_embeddings: for a sample, the (frames, d) pooled output of its frames from the head of the
            tower's SigLIP, in the space of that SigLIP's texts; None where it is not available. Only for
            methods whose ``pooled_frames`` asks for it.
        strict: whether a prompt that can't be brought down to the FLOPs target is an error. If not, it is
            pruned as far as the method can, with a warning.
    """

    shape: DecoderShape
    layouts: Sequence[VideoLayout]
    frame_features: Callable[[int], Tensor]
    relevance: Callable[[int], Tensor | None]
    tower_attention: Callable[[int], Tensor]
    strict: bool = False
    frame_embeddings: Callable[[int], Tensor | None] = lambda _: None


class PruningMethod(Protocol):
    """What a pruning context needs from a method (`adatp.methods.Method` is the base of all methods)."""

    @property
    def name(self) -> str:
        """The method's name in reports."""
        ...

    @property
    def tower_attention(self) -> bool:
        """Whether ``plan`` reads the vision tower's attention."""
        ...

    @property
    def merges(self) -> bool:
        """Whether tokens are averaged into kept ones, not only dropped."""
        ...

    @property
    def pooled_frames(self) -> str:
        """Whether ``plan`` reads the pooled output of frames. "mean": no; "head": yes; "auto": if
        available.
        """
        ...

    @property
    def relevance_signal(self) -> str:
        """The text-relevance signal that ``plan`` reads."""
        ...

    @property
    def settings(self) -> dict[str, Any]:
        """The method's parameters, as plain values."""
        ...

    def scored_layers(self, shape: DecoderShape) -> Iterable[int]:
        """The layers whose attention a plan may ask for."""
        ...

    def check_layouts(self, layouts: Iterable[VideoLayout]) -> None:
        """Refuse prompts that the method can't prune."""
        ...

    def plan(self, prefill: Prefill) -> Plan | None:
        """Decide on one prefill; None: every token is processed."""
        ...
