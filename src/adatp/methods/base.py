"""What a pruning method is: a frozen dataclass that plans one prefill."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from torch import Tensor

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
    """

    shape: DecoderShape
    layouts: Sequence[VideoLayout]
    frame_features: Callable[[int], Tensor]
    relevance: Callable[[int], Tensor | None]


class Method(ABC):
    """Base of all methods. Calling one gives a context manager that prunes a model while it is open.

    >>> with AdaTP(flops=0.273)(model, processor) as run:
    ...     ids = model.generate(**inputs)
    >>> run.report
    """

    name: ClassVar[str]
    relevance: str = "none"

    @abstractmethod
    def scored_layers(self, layers: int) -> Iterable[int]:
        """The decoder layers, of ``layers``, whose attention ``plan`` may ask for."""

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
