"""Reads a video once and makes the prompts of all its questions."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import wraps
from typing import Any

from adatp.errors import AdaTPError, first_line, is_out_of_memory
from adatp.run.rows import Row, place
from adatp.session import Prompt
from adatp.session.fitting import fit_for
from adatp.session.prompt import build_prompt, check_prompt
from adatp.video import read_source


@dataclass(frozen=True, eq=False)
class Unit:
    """Questions about one video that sample the same number of frames.

    Attributes:
        path: path of the video.
        frames: how many to sample.
        rows: the questions.
    """

    path: str
    frames: int
    rows: tuple[Row, ...]


def units(rows: Iterable[Row], root: Any) -> list[Unit]:
    """Rows by video and number of frames, in the order in which they first appear.

    Args:
        rows: rows of one part.
        root: the folder that relative paths start from.
    """
    found: dict[tuple[str, int], list[Row]] = {}
    for row in rows:
        found.setdefault((place(row.video, root), row.settings.frames), []).append(row)
    return [Unit(path, frames, tuple(same)) for (path, frames), same in found.items()]


Prepared = Prompt | str
"""A prompt without its video's frames, or one line with the reason why there is none."""


def prepare(processor: Any, config: Any, unit: Unit) -> list[Prepared]:
    """Read a unit's video and make its prompts, each checked against its method.

    Args:
        processor: the model's.
        config: the model's.
        unit: the questions.

    Returns:
        One entry per row. Prompts of one video share the tensors of its frames, and the time of reading it.
    """
    began = time.perf_counter()
    try:
        video = read_source(unit.path, unit.frames, fit=fit_for(processor, config))
    except Exception as error:  # also from a library that a file led astray: the other rows continue
        return [line_of(error)] * len(unit.rows)
    reading = 1000 * (time.perf_counter() - began) / len(unit.rows)
    found: list[Prepared] = []
    shared: dict[str, Any] = {}
    with _once(processor):
        for row in unit.rows:
            try:
                prompt = build_prompt(processor, config, video, row.question, frames=unit.frames)
                settings = row.settings
                check_prompt(config, prompt, settings.pruning(), settings.max_new_tokens, settings.strict)
            except Exception as error:
                found.append(line_of(error))
                continue
            times = {**prompt.milliseconds, "video": reading}
            inputs = _sharing(prompt.inputs, shared)
            found.append(replace(prompt, videos=(), inputs=inputs, milliseconds=times))
    return found


def line_of(error: BaseException) -> str:
    """A row's error in one line."""
    if isinstance(error, AdaTPError):
        return " ".join(str(error).split())
    if is_out_of_memory(error):
        return "out of memory: ask for fewer frames, or use a smaller model"
    return f"unexpected {type(error).__name__}: {first_line(error)}"


def _sharing(inputs: dict[str, Any], shared: dict[str, Any]) -> dict[str, Any]:
    """The same inputs, with tensors replaced by equal ones from an earlier prompt of the video."""
    found = {}
    for name, value in inputs.items():
        held = shared.setdefault(name, value)
        same = held.shape == value.shape and held.dtype == value.dtype and bool((held == value).all())
        found[name] = held if same else value
    return found


@contextmanager
def _once(processor: Any) -> Iterator[None]:
    """Let a processor scale the frames of one video once, for all its questions.

    While this is open, the outputs of a processor's parts for the same frames are cached.
    """
    patched = []
    for part in ("video_processor", "image_processor"):
        reader: Any = getattr(processor, part, None)
        if callable(getattr(reader, "preprocess", None)) and "preprocess" not in vars(reader):
            reader.preprocess = _remembered(reader.preprocess)
            patched.append(reader)
    try:
        yield
    finally:
        for reader in patched:
            del reader.preprocess


def _remembered(preprocess: Callable[..., Any]) -> Callable[..., Any]:
    """A processor's ``preprocess`` with its outputs cached by frames and options."""
    held: list[Any] = []

    @wraps(preprocess)
    def again(media: Any, *args: Any, **kwargs: Any) -> Any:
        asked = (_flat(media), args, repr(kwargs))
        if held and _same(held[0], asked):
            return held[1].copy()
        result = preprocess(media, *args, **kwargs)
        if callable(getattr(result, "copy", None)):
            held[:] = asked, result.copy()
        return result

    return again


def _flat(media: Any) -> list[Any]:
    """The arrays of frames in nested lists."""
    if isinstance(media, list | tuple):
        return [array for each in media for array in _flat(each)]
    return [media]


def _same(held: tuple[Any, ...], asked: tuple[Any, ...]) -> bool:
    """Whether two calls have exactly the same memory and options."""
    return (
        len(held[0]) == len(asked[0])
        and all(
            mine is other or _one_memory(mine, other) for mine, other in zip(held[0], asked[0], strict=True)
        )
        and held[1:] == asked[1:]
    )


def _one_memory(mine: Any, other: Any) -> bool:
    """Whether two arrays show the same memory in the same way."""
    facts = [getattr(each, "__array_interface__", None) for each in (mine, other)]
    return facts[0] is not None and facts[0] == facts[1]
