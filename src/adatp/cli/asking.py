"""Helpers of the commands that ask a model: opening a session, and asking it with a line of progress."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from rich import box
from rich.console import Console
from rich.panel import Panel
from rich.text import Text

from adatp.cli.console import downloading, progress
from adatp.cli.terminal import plain, say

if TYPE_CHECKING:
    from adatp import Answer, Prompt, Session
    from adatp.methods import Method
    from adatp.video import Video


def open_session(model: str | None, device: str, dtype: str, trusted: bool = False) -> Session:
    """A session of the model that --model names, without its weights.

    Of a model that no family file knows, a line on stderr says that the general rule is tried.
    """
    from adatp.models import family_of
    from adatp.session import Session
    from adatp.session.loading import source_of

    with progress(f"looking up {source_of(model)}"):
        session = Session(model, device=device, dtype=dtype, trust_remote_code=trusted)
    if family_of(session.config.model_type).by_rule:
        say(f"{session.source}: {by_rule(session.config)}")
    return session


def by_rule(config: Any) -> str:
    """The note of a command about a model that the general rule is tried on."""
    return f"general rule: no family file knows {config.model_type!r} (`adatp models` says what that means)"


def load_weights(session: Session) -> None:
    """Load the weights now, with progress."""
    with progress(f"loading {session.source}", shown=os.path.isdir(session.source)):
        _ = session.model


@dataclass(frozen=True, eq=False)
class Request:
    """A question about a video, from the command line.

    Attributes:
        session: holds the model.
        path: path of the video: a file, a folder of frame images, or an address on the web.
        prompt: the video and the question.
        max_new_tokens: longest answer, in tokens.
    """

    session: Session
    path: str
    prompt: Prompt
    max_new_tokens: int

    @property
    def clip(self) -> Video:
        """The frames that were read."""
        return self.prompt.videos[0]

    def can_run(self, method: Method) -> bool:
        """Whether the method's FLOPs target is in reach.

        Raises:
            PromptError: the prompt and the answer don't fit into the model's context.
        """
        from adatp.budget import BudgetError

        try:
            self.session.check(self.prompt, method, max_new_tokens=self.max_new_tokens)
        except BudgetError:
            return False
        return True

    def check(self, method: Method, strict: bool = False) -> None:
        """Refuse a request that can't be answered.

        Args:
            method: the method with its target.
            strict: whether a FLOPs target that is out of reach is refused too. If not, the run uses the least
                that the method can do, and warns.

        Raises:
            PromptError: the prompt and the answer don't fit into the model's context.
            BudgetError: the target is out of reach, and ``strict`` was asked for.
        """
        self.session.check(self.prompt, method, max_new_tokens=self.max_new_tokens, strict=strict)

    def warm_up(self, method: Method) -> None:
        """Run once, so that the costs of a first run are paid."""
        with progress(f"warming up: {method.name}"):
            self.session.warm_up(self.prompt, method)

    def answer(self, method: Method) -> Answer:
        """The model's answer while the method prunes."""
        with progress(f"answering: {method.name}"):
            return self.session.answer(self.prompt, method, max_new_tokens=self.max_new_tokens)


def prepare(
    session: Session, video: str | None, question: str | None, frames: int, max_new_tokens: int
) -> Request:
    """Read the video and turn it and the question into a prompt.

    Args:
        session: holds the model.
        video: a file, a folder of frame images or an address; None: the shipped clip.
        question: a question about it; None: the clip's own.
        frames: how many to sample.
        max_new_tokens: longest answer, in tokens.
    """
    from adatp.tiny import CLIP, QUESTION
    from adatp.video import local_file

    path = video if video is not None else str(CLIP)
    with (
        downloading(path) as update,
        local_file(path, progress=update) as file,
        progress("reading the video"),
    ):
        prompt = session.prepare(file, question or QUESTION, frames=frames)
    return Request(session, path, prompt, max_new_tokens)


def show_answers(console: Console, request: Request, answers: Sequence[Answer]) -> None:
    """Print the question and each method's answer."""
    count = len(request.clip.frames)
    video = f"{count} frame{'s' if count > 1 else ''} of {request.clip.duration:.1f} s of video"
    console.print(Text(f"{plain(request.prompt.question)} ({video})", "bold"))
    for answer in answers:
        text = Text(plain(answer.text, keep="\n") or "(no words)", "bold green")
        console.print(Panel(text, title=answer.report.method, title_align="left", box=box.ROUNDED))
