"""Defines a pruning method: a frozen dataclass that decides where tokens are dropped, how many, and which."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import TYPE_CHECKING, Any, ClassVar

from adatp.budget import BudgetError, Schedule, check_target, everything, fit
from adatp.errors import AdaTPError, SettingError
from adatp.flops import DecoderShape
from adatp.layout import PromptCounts, VideoLayout
from adatp.methods.token_plan import Choice, Cut, Rule, TokenPlan
from adatp.numbers_given import is_integer, is_number
from adatp.prefill import Prefill

if TYPE_CHECKING:
    from adatp.pruning import Pruner


class GridError(AdaTPError, ValueError):
    """A method needs frames with all their tokens, and some lack tokens. The message is one line."""


def _check_kind(name: str, annotation: str, value: Any) -> None:
    """Refuse a value that is not what a setting is annotated as, among ``bool``, ``int`` and ``float``."""
    kind, _, optional = annotation.partition(" | ")
    if (value is None and optional) or kind not in ("bool", "int", "float"):
        return
    if kind == "bool" and not isinstance(value, bool):
        raise SettingError(f"{name} is true or false, not {value!r}")
    if kind == "int" and not is_integer(value):
        raise SettingError(f"{name} is a whole number, not {value!r}")
    if kind == "float" and not is_number(value):
        raise SettingError(f"{name} is a number, not {value!r}")


@dataclass(frozen=True)
class Method:
    """Base of all methods. Calling one gives a context manager that prunes a model while it is open.

    >>> with AdaTP(flops=0.273)(model, processor) as run:
    ...     ids = model.generate(**inputs)
    >>> run.report

    Your own method defines the layers before which tokens are dropped (`cuts`) and which tokens stay
    (`choose`). The base solves one number for the FLOPs target: how many tokens later layers process. A
    method with another free parameter defines what that parameter leaves to each layer (`layer_counts`).

    Attributes:
        flops: real FLOPs of the decoder's prefill, scoring included, as a fraction of vanilla, in (0, 1]; met
            from below. 1.0 keeps everything; None: the method has no target and keeps everything.
    """

    name: ClassVar[str]
    tower_attention: ClassVar[bool] = False
    """Whether the rule reads the vision tower's attention, which costs a second softmax in one layer."""
    merges: ClassVar[bool] = False
    """Whether tokens are averaged into kept ones, not only dropped."""
    complete_frames: ClassVar[bool] = False
    """Whether every cell of a grid must have its token. Processors that compress videos leave some out."""
    tunable: ClassVar[Mapping[str, Sequence[Any]]] = {}
    """Parameters that a comparison should tune on separate questions, with the values worth trying."""

    flops: float | None = 0.273

    def __post_init__(self) -> None:
        for field in fields(self):
            _check_kind(field.name, str(field.type), getattr(self, field.name))
        if self.flops is not None:
            check_target(self.flops)
            object.__setattr__(self, "flops", float(self.flops))  # numpy's, or a fraction

    @property
    def keeps_everything(self) -> bool:
        """Whether the target leaves nothing to drop."""
        return self.flops is None or self.flops == 1

    @property
    def query_rows(self) -> int:
        """At most this many of the prompt's last text tokens score."""
        return 1

    @property
    def pooled_frames(self) -> str:
        """Whether the rule reads the pooled output of frames (see `AdaTP.segments`)."""
        return "mean"

    @property
    def relevance_signal(self) -> str:
        """The text-relevance signal that the rule reads (see `AdaTP.relevance`)."""
        return "none"

    @property
    def settings(self) -> dict[str, Any]:
        """The parameters as plain values. A method without a target leaves out ``flops``."""
        return {name: value for name, value in asdict(self).items() if (name, value) != ("flops", None)}

    # Where tokens are dropped, and how many stay.

    def cuts(self, shape: DecoderShape) -> tuple[int, ...]:
        """Layers before which tokens may be dropped, ascending; 0 is before the first layer.

        Raises:
            BudgetError: the decoder lacks the layers that the method needs.
        """
        return (0,)

    def layer_counts(self, shape: DecoderShape, visual: int, x: int) -> Sequence[int]:
        """Visual tokens that each layer processes if the free parameter is ``x``, in 1 .. ``visual``."""
        (cut,) = self.cuts(shape)
        return [visual] * cut + [x] * (shape.layers - cut)

    def scored_layers(self, shape: DecoderShape) -> Iterable[int]:
        """Layers whose attention is scored: the one before each cut. A cut before layer 0 has none.

        Raises:
            BudgetError: the decoder lacks the layers that the method needs.
        """
        if self.keeps_everything:
            return ()
        cuts = [cut for cut in self.cuts(shape) if cut]
        if lacking := [cut for cut in cuts if cut not in shape.cut_layers]:
            raise BudgetError(
                f"tokens can't be dropped before layers {lacking}: the decoder has {shape.layers}, and only "
                "those that follow full attention have scores to drop by"
            )
        return tuple(cut - 1 for cut in cuts)

    def schedule(self, shape: DecoderShape, counts: PromptCounts) -> Schedule:
        """Tokens that each layer processes of one prompt; known before anything runs.

        Raises:
            BudgetError: the target is out of reach; its ``least`` is the schedule that comes closest.
        """
        if self.flops is None or self.flops == 1 or not counts.visual:
            return everything(shape, counts)
        return fit(
            shape,
            counts,
            target=self.flops,
            layer_counts=lambda x: self.layer_counts(shape, counts.visual, x),
            most=counts.visual,
            queries=min(self.query_rows, counts.question),
            scored=self.scored_layers(shape),
        )

    def schedule_of(self, shape: DecoderShape, layout: VideoLayout) -> Schedule:
        """`schedule` for a prompt whose frames are known."""
        return self.schedule(shape, layout.counts)

    def cuts_of(self, shape: DecoderShape, schedule: Schedule, visual: int) -> Iterable[int]:
        """The cuts that a prompt with ``visual`` visual tokens and this schedule uses."""
        return self.cuts(shape)

    # Which tokens stay.

    def choose(self, cut: Cut) -> Choice:
        """Choose the tokens that stay at one cut, for methods that remember nothing between cuts."""
        raise NotImplementedError(f"{type(self).__name__} has neither choose nor rule")

    def rule(self, prefill: Prefill, sample: int, schedule: Schedule) -> Rule:
        """Rule that chooses the tokens of one prompt of a prefill. The default calls `choose`."""
        return self.choose

    def plan(self, prefill: Prefill) -> TokenPlan | None:
        """Decide on one prefill; None: every token is processed."""
        return None if self.keeps_everything else TokenPlan(self, prefill)

    def check_layouts(self, layouts: Iterable[VideoLayout]) -> None:
        """Refuse prompts that the method can't prune.

        Raises:
            GridError: the method needs all tokens of each frame, and some were left out.
        """
        if (
            self.complete_frames
            and not self.keeps_everything
            and not all(layout.complete for layout in layouts)
        ):
            from adatp.methods import METHODS

            others = [name for name, kind in METHODS.items() if not kind.complete_frames]
            raise GridError(
                f"{self.name} needs every token of a frame, and the processor left out some: switch its "
                f"compression off, or use one of {', '.join(others)}"
            )

    def __call__(
        self,
        model: Any,
        processor: Any = None,
        *,
        question: str | Sequence[str] | None = None,
        reuse_frames: float | None = None,
        strict: bool = False,
    ) -> Pruner:
        """Prepare to prune ``model`` inside a ``with`` block. Nothing changes before the block is entered.

        Args:
            model: a Video LLM of transformers, of a supported family, unmodified.
            processor: its processor or tokenizer. It is needed to find the question in the prompt. Without
                it, text relevance falls back to signals that need no words.
            question: the question, if it is not the text of the prompt's last user turn: one text for all
                prompts of a batch, or a list with one for each. Copies of a prompt (beams, several return
                sequences) share its question.
            reuse_frames: the vision tower does not encode a frame if none of its patches differs from the
                last encoded frame's by more than this (mean absolute difference of pixels, in the processor's
                normalised units). The frame takes that frame's features. 0: only identical frames; None:
                every frame is encoded. For towers that encode each frame by itself (LLaVA-OneVision's). Each
                video begins anew. Where frames come as images (Gemma 3's), only identical ones are equal.
            strict: raise `BudgetError` from the model's call if a prompt can't be brought down to the FLOPs
                target. By default such a prompt is pruned as far as the method can, with a warning that gives
                the reason. The other prompts of a batch meet the target.

        Raises:
            UnsupportedModelError: no family file knows the model.
            ValueError: ``reuse_frames`` is negative.
        """
        from adatp.pruning import Pruner

        return Pruner(self, model, processor, question, reuse_frames, strict)
