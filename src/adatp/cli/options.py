"""Options that several commands share, and the checks of what is given for them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer

from adatp.errors import RefusedError

# torch and transformers take seconds to import: only the commands that need them do, when they run.
if TYPE_CHECKING:
    from adatp.layout import Grid
    from adatp.methods import Method

Number = TypeVar("Number", int, float)

MOST = 2**31 - 1
"""The largest number that an option takes, unless a smaller one is given."""

MOST_FRAMES = 1_000_000
"""The most frames that are sampled."""

MOST_PIXELS = 65_536
"""Longest side of a frame."""

SIZE = "448x448"
"""Width x height of a frame, if nothing else is said."""

ModelOption = Annotated[
    str | None,
    typer.Option(
        help="A Video LLM: a folder, an id on the Hugging Face hub, or an embedded one: tiny, scenes.",
        show_default="the small one that ships with adatp",
    ),
]
TargetsOption = Annotated[
    str, typer.Option("--flops", help="Fractions of vanilla's prefill FLOPs, separated by commas.")
]
DtypeOption = Annotated[str, typer.Option(help="float32, bfloat16 or float16; auto: the checkpoint's own.")]
DeviceOption = Annotated[str, typer.Option(help="A torch device; auto: CUDA if available.")]
TrustOption = Annotated[
    bool,
    typer.Option(
        "--trust-remote-code",
        help="Run the checkpoint's Python code and load its pickled weights. Never asked at a terminal.",
    ),
]
VideoArgument = Annotated[
    str | None,
    typer.Argument(
        help="A video file, a folder of frame images, or an address (https://...).",
        show_default="a clip that ships with adatp",
    ),
]
QuestionArgument = Annotated[
    str | None, typer.Argument(help="Question about the video.", show_default="the clip's own")
]
TargetOption = Annotated[
    float | None,
    typer.Option(
        "--flops",
        help="Real FLOPs of the decoder's prefill, as a fraction of vanilla, in (0, 1].",
        show_default="0.273",
    ),
]
StrictOption = Annotated[
    bool,
    typer.Option(
        "--strict", help="Refuse a --flops out of reach. Otherwise the lowest possible target is used."
    ),
]
FramesOption = Annotated[int, typer.Option(min=1, max=MOST_FRAMES, help="Frames to sample, uniformly.")]
MethodOption = Annotated[str, typer.Option(help="The pruning method.")]
TextTokensOption = Annotated[
    int, typer.Option(min=1, max=MOST, help="Tokens of the prompt that are not visual.")
]
SizeOption = Annotated[
    str, typer.Option(help="Width x height of a frame, where the number of tokens depends on it.")
]
NewTokensOption = Annotated[int, typer.Option(min=1, max=MOST, help="Longest answer, in tokens.")]
JsonOption = Annotated[
    Path | None, typer.Option("--json", help="Also write everything to this file.", show_default=False)
]
ShardOption = Annotated[
    str, typer.Option(help="Do only this share, for array jobs: i/n, with i from 1 to n.")
]


def numbers(option: str, text: str, kind: type[Number]) -> list[Number]:
    """The numbers in an option that takes several."""
    try:
        found = [kind(number) for number in text.split(",")]
    except ValueError:
        raise RefusedError(f"{option} is numbers separated by commas, not {text!r}") from None
    for number in found:
        if abs(number) > MOST:
            raise RefusedError(f"{option}: {number} is too large")
    return found


def fractions(text: str) -> list[float]:
    """FLOPs targets given by the user."""
    ratios = numbers("--flops", text, float)
    for ratio in ratios:
        if not 0 < ratio <= 1:
            raise RefusedError(f"--flops are fractions of vanilla, in (0, 1], not {ratio}")
    return ratios


def video_grid(config: Any, frames: int, size: str) -> Grid:
    """Frames, rows and columns of a video's tokens, by a config alone.

    Args:
        config: the model's.
        frames: of the video.
        size: what --size says.
    """
    from adatp.models import family_of

    width, _, height = size.partition("x")
    digits = width.isdecimal() and height.isdecimal() and max(len(width), len(height)) <= 5
    if not digits or not (0 < int(width) <= MOST_PIXELS and 0 < int(height) <= MOST_PIXELS):
        raise RefusedError(f"--size is WIDTHxHEIGHT in pixels, each at most {MOST_PIXELS}, not {size!r}")
    return family_of(config.model_type).grid(config, frames, int(height), int(width))


def check_dtype(name: str) -> None:
    """Refuse a dtype that --dtype does not support."""
    if name not in (kinds := ("auto", "float32", "bfloat16", "float16")):
        raise RefusedError(f"--dtype is one of {', '.join(kinds)}, not {name!r}")


def check_limits(frames: int, most_frames: int, max_new_tokens: int, most_new_tokens: int) -> None:
    """Refuse defaults of a server above its limits for requests."""
    for option, value, limit, most in (
        ("--frames", frames, "--max-frames", most_frames),
        ("--max-new-tokens", max_new_tokens, "--max-tokens", most_new_tokens),
    ):
        if value > most:
            raise RefusedError(f"{option} {value} is more than the limit, {limit} {most}: change one of them")


def check_question(command: str, video: str | None, question: str | None) -> None:
    """Refuse a video without a question, and an empty question."""
    if video is not None and question is None:
        raise RefusedError(f'a question is missing: adatp {command} VIDEO "QUESTION"')
    if question is not None and not question.strip():
        raise RefusedError("the question is empty")
    if question is not None and any("\ud800" <= character <= "\udfff" for character in question):
        raise RefusedError("the question is not UTF-8 text")


def method_named(name: str, flops: float | None) -> Method:
    """The method of that name, with that target; None: its own default."""
    from adatp.methods import NAMES, make_method, method_class

    if name not in NAMES:
        raise RefusedError(f"no method {name!r}; there are {', '.join(NAMES)}")
    if flops is not None and method_class(name).flops is None:
        raise RefusedError(f"method {name!r} has no FLOPs target: leave --flops out")
    return make_method(name, flops)
