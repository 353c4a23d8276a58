"""What a pruning method is: a frozen dataclass that plans one prefill."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from torch import Tensor

from adatp.budget import Schedule
from adatp.errors import AdaTPError
from adatp.flops import DecoderShape
from adatp.layout import VideoLayout
from adatp.plan import Plan

if TYPE_CHECKING:
    from adatp.pruner import Pruner


@dataclass(frozen=True, eq=False)
class Prefill:
    """What a method may know of the prompts before the decoder reads them.

    Attributes:
        shape: sizes of the decoder.
        layouts: one a sample.
        frame_features: for a sample, the (frames, d) features of its frames, pooled over positions, as the
            vision tower made them, before the projector.
        relevance: for a sample, the (frames,) relevance of its frames to its question by the signal that the
            run settled on, in that signal's own scale; None if it gives none before the decoder runs.
        visual: for a sample, its (n, d) projected visual tokens, as the decoder will read them, in the order
            of its layout's ``index``.
        tower_attention: for a sample, the (n,) float32 attention that each visual token's patches receive in
            the layer of the vision tower whose output is projected: the softmax's mean over heads and query
            patches, and over the patches that make up a token. Only for methods that set ``tower_attention``.
    """

    shape: DecoderShape
    layouts: Sequence[VideoLayout]
    frame_features: Callable[[int], Tensor]
    relevance: Callable[[int], Tensor | None]
    visual: Callable[[int], Tensor]
    tower_attention: Callable[[int], Tensor]


class GridError(AdaTPError, ValueError):
    """A method needs frames with all their tokens, and some have not. The message is one line."""


class Method(ABC):
    """Base of all methods. Calling one gives a context manager that prunes a model while it is open.

    >>> with AdaTP(flops=0.273)(model, processor) as run:
    ...     ids = model.generate(**inputs)
    >>> run.report
    """

    name: ClassVar[str]
    tower_attention: ClassVar[bool] = False
    """Whether ``plan`` asks for the vision tower's attention, which costs a second softmax in one layer."""
    merges: ClassVar[bool] = False
    """Whether tokens are averaged into kept ones, not only dropped."""
    whole_frames: ClassVar[bool] = False
    """Whether every cell of a grid must have its token; processors that compress videos leave some out."""

    flops: float = 1.0
    relevance: str = "none"
    reuse_frames: float | None = None

    @abstractmethod
    def schedule(self, shape: DecoderShape, *, visual: int, other: int, question: int) -> Schedule:
        """What each layer processes of one sample; known before anything runs.

        Args:
            shape: the decoder.
            visual: visual tokens of the prompt.
            other: its other tokens.
            question: those of them behind the video.

        Raises:
            BudgetError: the target is out of reach.
        """

    @abstractmethod
    def scored_layers(self, shape: DecoderShape) -> Iterable[int]:
        """The layers whose attention ``plan`` may ask for, among ``shape.full_layers``.

        Raises:
            BudgetError: the decoder lacks the layers that it needs.
        """

    @abstractmethod
    def plan(self, prefill: Prefill) -> Plan | None:
        """Decide on one prefill; None processes every token."""

    def __call__(
        self, model: Any, processor: Any = None, *, question: str | Sequence[str] | None = None
    ) -> Pruner:
        """Prepare to prune ``model`` inside a ``with`` block. Nothing changes before the block is entered.

        Args:
            model: a Video LLM of transformers, of a supported family, unmodified.
            processor: its processor or tokenizer. Needed to read the question out of the prompt, so without
                it text relevance falls back to what needs no words.
            question: the question, or one for each sample, where the prompt's own text behind the video is
                not it.

        Raises:
            UnsupportedModelError: no family file knows the model.
        """
        from adatp.pruner import Pruner

        return Pruner(self, model, processor, question)
