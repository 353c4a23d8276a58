"""What the commands that ask a model about a video share: options, checks, loading, answering."""

from __future__ import annotations

import time
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer
from rich import box
from rich.console import Console
from rich.panel import Panel
from rich.text import Text

from adatp.cli.console import progress
from adatp.errors import RefusedError

if TYPE_CHECKING:
    from adatp.ask import Answer
    from adatp.methods import Method
    from adatp.video import Video

VideoArgument = Annotated[str | None, typer.Argument(help="A video file.", show_default="a clip of ours")]
QuestionArgument = Annotated[
    str | None, typer.Argument(help="What to ask about it.", show_default="the clip's own")
]
TargetOption = Annotated[
    float | None,
    typer.Option(
        "--flops",
        help="Real FLOPs of the decoder's prefill, as a fraction of vanilla, in (0, 1].",
        show_default="0.273",
    ),
]
FramesOption = Annotated[int, typer.Option(min=1, help="Frames to sample, uniformly.")]
MethodOption = Annotated[str, typer.Option(help="The pruning method.")]
NewTokensOption = Annotated[int, typer.Option(min=1, help="Longest answer, in tokens.")]


def check_question(command: str, video: str | None, question: str | None) -> None:
    """Refuse a video without a question, and an empty question."""
    if video is not None and question is None:
        raise RefusedError(f'a question is missing: adatp {command} VIDEO "QUESTION"')
    if question is not None and not question.strip():
        raise RefusedError("the question is empty")


@dataclass(frozen=True, eq=False)
class Request:
    """A question about a video, ready for a model whose weights are not loaded yet.

    Attributes:
        source: the model's folder or its id on the hub.
        path: of the video file.
        question: what is asked.
        max_new_tokens: longest answer, in tokens.
        config: the model's.
        processor: the model's.
        clip: the frames read.
        inputs: arguments of ``generate``.
        milliseconds: time of ``video`` and ``preprocess``.
    """

    source: str
    path: str
    question: str
    max_new_tokens: int
    config: Any
    processor: Any
    clip: Video
    inputs: dict[str, Any]
    milliseconds: dict[str, float]

    def can_run(self, method: Method) -> bool:
        """Whether the method's FLOPs target is in reach.

        Raises:
            PromptError: the prompt and the answer don't fit into the model's context.
        """
        from adatp import ask as asking
        from adatp.budget import BudgetError

        try:
            asking.check_prompt(self.config, self.inputs, method, self.max_new_tokens)
        except BudgetError:
            return False
        return True

    def within_reach(self, method: Method, flops: float | None) -> Method:
        """The method checked; where its target is a default out of reach, said so and without one.

        Args:
            method: as it would be run.
            flops: the target that was asked for, if one was.

        Raises:
            PromptError: the prompt and the answer don't fit into the model's context.
            BudgetError: the target asked for is out of reach.
        """
        from adatp import ask as asking
        from adatp.budget import BudgetError

        try:
            asking.check_prompt(self.config, self.inputs, method, self.max_new_tokens)
        except BudgetError as error:
            if flops is not None:
                raise
            warnings.warn(f"nothing is pruned, this prompt is too short: {error}", stacklevel=1)
            return cast("Method", replace(cast(Any, method), flops=1.0))
        return method

    def load(self, device: str, dtype: str) -> Any:
        """The model."""
        from adatp import ask as asking

        with progress(f"loading {self.source}", shown=Path(self.source).is_dir()):
            return asking.load_model(self.source, device, dtype)

    def warm_up(self, model: Any, method: Method) -> None:
        """Run once for what only a first run costs."""
        self._run(model, method, 2, "warming up")

    def answer(self, model: Any, method: Method) -> Answer:
        """The model's answer while the method prunes."""
        return self._run(model, method, self.max_new_tokens, "answering")

    def _run(self, model: Any, method: Method, tokens: int, doing: str) -> Answer:
        from adatp import ask as asking

        with progress(f"{doing}: {method.name}"):
            return asking.answer(model, self.processor, self.inputs, self.question, method, tokens)


def prepare(
    video: str | None, question: str | None, model: str | None, frames: int, max_new_tokens: int
) -> Request:
    """Read the video and turn it and the question into a prompt.

    Args:
        video: a file; None: the shipped clip.
        question: about it; None: the clip's own.
        model: a folder or an id on the hub; None: the embedded model.
        frames: how many to sample.
        max_new_tokens: longest answer, in tokens.
    """
    from adatp import ask as asking
    from adatp.tiny import CHECKPOINT, CLIP, QUESTION
    from adatp.video import read_video

    source = model if model is not None else str(CHECKPOINT)
    path, question = video if video is not None else str(CLIP), question or QUESTION
    with progress(f"looking up {source}"):
        config = asking.load_config(source)
        processor = asking.load_processor(source)
    with progress("reading the video"):
        began = time.perf_counter()
        clip = read_video(path, frames)
        read = time.perf_counter()
        inputs = asking.build_inputs(processor, config, clip, question)
        shared = {"video": 1000 * (read - began), "preprocess": 1000 * (time.perf_counter() - read)}
    return Request(source, path, question, max_new_tokens, config, processor, clip, inputs, shared)


def show_answers(console: Console, request: Request, answers: Sequence[Answer]) -> None:
    """Print the question and each method's answer."""
    count = len(request.clip.frames)
    video = f"{count} frame{'s' if count > 1 else ''} of {request.clip.duration:.1f} s of video"
    console.print(Text(f"{request.question} ({video})", "bold"))
    for answer in answers:
        text = Text(answer.text or "(no words)", "bold green")
        console.print(Panel(text, title=answer.report.method, title_align="left", box=box.ROUNDED))
