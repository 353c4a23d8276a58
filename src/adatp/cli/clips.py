"""The clips and questions of ``adatp bias``: the user's files, or those of the small world."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from adatp.cli.terminal import say
from adatp.errors import RefusedError
from adatp.small_files import SmallFileError, read_small

if TYPE_CHECKING:
    from adatp.session import Session
    from adatp.video import Video

QUESTION = "What happens in this video?"
"""The question about files without --questions."""


def read_questions(path: Path | None) -> list[tuple[str | None, str]]:
    """Questions given by the user: (name of a file or None, question)."""
    if path is None:
        return [(None, QUESTION)]
    try:
        lines = read_small(path).decode().splitlines()
    except UnicodeDecodeError as error:
        raise RefusedError(f"--questions {path}: can't be read (not a text file)") from error
    except SmallFileError as error:
        raise RefusedError(f"--questions {path}: can't be read ({error})") from error
    found: list[tuple[str | None, str]] = []
    for line in filter(str.strip, lines):
        name, tab, question = line.partition("\t")
        found.append((name.strip(), question.strip()) if tab else (None, line.strip()))
    if not found:
        raise RefusedError(f"--questions {path}: no question in it; write one a line")
    return found


def questions_of_files(folder: Path, asked: Sequence[tuple[str | None, str]]) -> list[tuple[Path, str]]:
    """Every question with the files it is about: the first question of every file, then the second, ..."""
    try:
        if not folder.is_dir():
            raise RefusedError(f"--videos {folder}: no such folder")
        files = sorted(file for file in folder.iterdir() if file.is_file() and not file.name.startswith("."))
    except OSError as error:
        raise RefusedError(f"--videos {folder}: can't be read ({error.strerror})") from error
    about = {file.name for file in files}
    for name, _ in asked:
        if name is not None and name not in about:
            raise RefusedError(f"--questions: no {name!r} in {folder}")
    found = [
        (number, file, question)
        for file in files
        for number, question in enumerate(q for name, q in asked if name in (None, file.name))
    ]
    if not found:
        raise RefusedError(f"--videos {folder}: no file in it to ask about")
    return [(file, question) for _, file, question in sorted(found, key=lambda each: each[0])]


def read_clips(
    session: Session, files: Sequence[tuple[Path, str]], frames: int
) -> Iterator[tuple[Video, str]]:
    """The videos that can be read and are long enough. Each of the others gives one line on stderr."""
    from adatp.video import VideoError

    refused: set[Path] = set()
    for file, question in files:
        if file in refused:
            continue
        try:
            video = session.read_video(file, frames)
            if len(video.frames) < frames:
                raise VideoError(f"{file}: only {len(video.frames)} frames; ask for fewer --frames")
        except VideoError as error:
            refused.add(file)
            say(f"skipped: {error}")
            continue
        yield video, question


def synthetic_clips(frames: int) -> Iterator[tuple[Video, str]]:
    """Test clips of the embedded model's world, without end."""
    from adatp.session.media import video_of
    from adatp.tiny.world import benchmark, make_clip

    for seed, question in benchmark("test", frames, sys.maxsize):
        yield video_of(make_clip(seed, frames, "test").frames, frames), question.text
