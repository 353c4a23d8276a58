"""One model, and a question asked of it with several pruning methods."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from adatp.budget import BudgetError
from adatp.errors import RefusedError
from adatp.methods import METHODS, Method, Vanilla
from adatp.session import Answer, Session
from adatp.video import Video

MOST_BYTES = 200 * 2**20
"""Largest size of an upload, in bytes."""

MOST_SECONDS = 600.0
"""Longest duration of a clip, in seconds."""

MOST_PIXELS = 4096 * 2304
"""Largest frame, width times height: 4K. All frames are in memory at once."""

MOST_FRAMES = 64
"""Most frames sampled from a clip."""

LEAST_PERCENT = 5
"""Lowest FLOPs target, % of vanilla's."""

MOST_NEW_TOKENS = 64
"""Length of the longest answer, in tokens."""

PRUNING: dict[str, type[Method]] = {
    name: method for name, method in METHODS.items() if method.flops is not None
}
"""The methods that have a FLOPs target."""


@dataclass(frozen=True, eq=False)
class Comparison:
    """The answers of the compared methods.

    Attributes:
        video: the sampled frames, as far as the model receives them.
        question: the question.
        answers: vanilla's first.
        refused: for methods whose FLOPs target is out of reach, the reason.
    """

    video: Video
    question: str
    answers: list[Answer]
    refused: dict[str, str]


def compare(
    session: Session,
    path: str | None,
    question: str,
    flops: float,
    frames: int,
    names: Sequence[str],
    progress: Callable[[float, str], object],
) -> Comparison:
    """Ask a model a question, both vanilla and pruned.

    Args:
        session: holds the model.
        path: a video file; None is refused, since there is no clip yet.
        question: a question about it.
        flops: target of every method, a fraction of vanilla's prefill FLOPs.
        frames: how many to sample.
        names: methods, keys of `PRUNING`; each is asked once.
        progress: called with the share that is done and what is next.

    Raises:
        RefusedError, VideoError, PromptError: no video or question, or none that can be used.
    """
    if not path:
        raise RefusedError("There is no clip yet: upload one, or pick an example.")
    if not question.strip():
        raise RefusedError("There is no question yet: write one.")
    names = list(dict.fromkeys(names))
    if not names:
        raise RefusedError("No method is chosen: choose one to compare with vanilla.")
    progress(0, "reading the video")
    video = session.read_video(path, frames, most_seconds=MOST_SECONDS, most_pixels=MOST_PIXELS)
    prompt = session.prepare(video, question)
    refused: dict[str, str] = {}
    methods: list[Method] = [Vanilla()]
    for name in names:
        method = PRUNING[name](flops=flops)
        try:
            session.check(prompt, method, max_new_tokens=MOST_NEW_TOKENS)
            methods.append(method)
        except BudgetError as error:
            refused[name] = str(error)
    answers = []
    for number, method in enumerate(methods):
        for step, (doing, tokens) in enumerate((("warming up", 2), ("asking", MOST_NEW_TOKENS))):
            progress((number + step / 2 + 0.25) / (len(methods) + 0.25), f"{doing}: {method.name}")
            answer = session.answer(prompt, method, max_new_tokens=tokens)
        answers.append(answer)
    return Comparison(session.visible_part(video), question, answers, refused)


def is_question(data: Sequence[Any]) -> bool:
    """Whether these are arguments that the page sends: a clip, a question, % of FLOPs, frames and methods.

    Args:
        data: the decoded JSON.
    """
    if len(data) != 5:
        return False
    clip, question, percent, frames, names = data
    return (
        (clip is None or (isinstance(clip, dict) and isinstance(clip.get("path"), str)))
        and (question is None or isinstance(question, str))
        and all(type(number) in (int, float) for number in (percent, frames))
        and LEAST_PERCENT <= percent <= 100
        and 1 <= frames <= MOST_FRAMES
        and isinstance(names, list)
        and all(isinstance(name, str) and name in PRUNING for name in names)
    )


def error_text(error: Exception, path: str | None) -> str:
    """An error's message for the user of the page: with the clip's name, not its path on the server."""
    message = " ".join(str(error).split())
    return message.replace(path, Path(path).name) if path else message
