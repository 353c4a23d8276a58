"""Checks files that the user names before anything slow. Outputs are written completely or not at all."""

from __future__ import annotations

import io
import os
import tempfile
import warnings
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from importlib import import_module
from importlib.util import find_spec
from itertools import islice
from logging import ERROR, getLogger
from pathlib import Path
from typing import TYPE_CHECKING

from adatp.cli.terminal import FULL
from adatp.errors import RefusedError, first_line

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Named = tuple[str, Path]
"""A file with its role: for an output its option, for an input some words."""

MOST_MODEL_FILES = 10_000
"""Most files of --model's folder that are looked at. A checkpoint has fewer; the folder / has millions."""

SHIPPED = Path(__file__).parents[1] / "tiny"
"""The folder of the embedded models and the clip."""


@contextmanager
def _naming(path: Path, option: str) -> Iterator[None]:
    """Turn the system's error about a file into one line."""
    try:
        yield
    except OSError as error:
        raise RefusedError(f"{option} {path}: can't be written ({error.strerror})") from error


def _exists(path: Path) -> bool:
    """Whether the path exists. Unlike ``Path.exists`` it raises if that can't be determined."""
    try:
        path.stat()
    except FileNotFoundError:
        return False
    return True


def check_writable(path: Path, option: str = "--json") -> Path:
    """The real path of an output file. Refused if it could not be written at the end."""
    with _naming(path, option):
        target = Path(os.path.realpath(path))
        if _exists(target):
            if target.is_dir():  # that of an empty name is the one that the process works in
                raise RefusedError(f"{option} {path}: a folder, not a regular file")
            if not target.is_file():
                raise RefusedError(f"{option} {path}: not a regular file")
            target.open("r+b").close()
        tempfile.TemporaryFile(dir=target.parent).close()
    return target


def check_folder(path: Path, option: str, names: Iterable[str]) -> Path:
    """The real path of an output folder. Refused if its files could not be written at the end.

    Args:
        path: the folder, made at the end if missing.
        option: the option that names it.
        names: names of the files that are written into it.
    """
    with _naming(path, option):
        target = Path(os.path.realpath(path))
        there = _exists(target)
        if there and not target.is_dir():
            raise RefusedError(f"{option} {path}: not a folder")
        tempfile.TemporaryFile(dir=target if there else target.parent).close()
        for name in names:
            if _exists(file := target / name) and not file.is_file():
                raise RefusedError(f"{option} {path}: {name} in it is not a regular file")
    return target


def check_drawing() -> None:
    """Refuse variables of the environment that matplotlib stumbles over, before anything slow.

    Raises:
        RefusedError: MPLBACKEND names no backend, or SOURCE_DATE_EPOCH is no time.
    """
    getLogger("matplotlib").setLevel(ERROR)  # it warns of folders and settings while it is imported
    try:
        import_module("matplotlib")
        datetime.fromtimestamp(int(os.environ.get("SOURCE_DATE_EPOCH") or 0), UTC)
    except (ValueError, OverflowError, OSError) as error:
        raise RefusedError(
            f"figures can't be drawn ({first_line(error)}): look at MPLBACKEND and SOURCE_DATE_EPOCH"
        ) from error


def check_figure(path: Path) -> Path:
    """The real path of a figure. Refused if it could not be drawn at the end."""
    if path.suffix not in (kinds := (".png", ".pdf", ".svg")):
        raise RefusedError(f"--plot {path}: the name ends in {', '.join(kinds)}")
    if find_spec("matplotlib") is None:
        raise RefusedError('--plot needs matplotlib: pip install "adatp[plot]"')
    check_drawing()
    target = check_writable(path, "--plot")
    check_writable(thirds_beside(target), "--plot")
    return target


def thirds_beside(plot: Path) -> Path:
    """The second figure of ``--plot``, next to the first."""
    return plot.with_name(f"{plot.stem}-thirds{plot.suffix}")


def model_files(model: str | None) -> Iterator[Named]:
    """The files of the model that --model names; none for a model on the hub."""
    if model is not None and not os.path.isdir(model):
        if "/" in model:
            return
        model = None  # an embedded model, by its name
    found = os.walk(SHIPPED if model is None else model)
    paths = (Path(folder) / name for folder, _, names in found for name in names)
    for path in islice(paths, MOST_MODEL_FILES):
        yield "a file of the model", path


def video_files(video: str | None) -> Iterator[Named]:
    """The files of the video that a command reads: one, the images of a folder, or none for an address."""
    if video is None:
        return
    if os.path.isdir(video):
        with suppress(OSError):
            yield from (("an image of the video", path) for path in Path(video).iterdir())
    else:
        yield "the video", Path(video)


def keep_inputs(outputs: Iterable[Named], inputs: Iterable[Named]) -> None:
    """Refuse an output that is an input, or another output, under whatever name.

    Args:
        outputs: files to be written, as `check_writable` returns them, with their options.
        inputs: files that are read.

    Raises:
        RefusedError: one would be lost.
    """
    places: dict[Path, str] = {}
    files: dict[tuple[int, int], Named] = {}
    for option, path in outputs:
        file = _identity(path)
        if path in places or (file is not None and file in files):
            other = places.get(path) or files[file][0]  # type: ignore[index]
            raise RefusedError(f"{option} {path}: the same file as that of {other}; give another name")
        places[path] = option
        if file is not None:
            files[file] = (option, path)
    if not files:
        return
    for number, what in enumerate(("standard input", "standard output", "standard error")):
        if (file := _identity(number)) in files and file is not None:
            option, output = files[file]
            raise RefusedError(f"{option} {output}: that is {what}, which would be lost; give another name")
    for what, path in inputs:
        if (file := _identity(path)) in files and file is not None:
            option, output = files[file]
            raise RefusedError(f"{option} {output}: that is {what}, which would be lost; give another name")


def _identity(path: Path | int) -> tuple[int, int] | None:
    """Device and inode of a file or a descriptor, the same under each of its names; None if there is none."""
    try:
        facts = os.stat(path)
    except (OSError, ValueError):
        return None
    return facts.st_dev, facts.st_ino


def write(path: Path, data: str | bytes, option: str = "--json") -> None:
    """Write a file completely or not at all."""
    write_set(path.parent, {path.name: data}, option)


def write_set(folder: Path, files: Mapping[str, str | bytes], option: str) -> None:
    """Write several files of a folder: all of them or none.

    Args:
        folder: made if missing, and not left if nothing could be written.
        files: name -> content.
        option: that names the folder.
    """
    parts = {name: folder / f".adatp-{os.getpid()}-{number}.part" for number, name in enumerate(files)}
    made = not folder.exists()
    done = False
    shown = folder / next(iter(files)) if len(files) == 1 else folder
    try:
        with _naming(shown, option):
            folder.mkdir(exist_ok=True)
            for name, part in parts.items():
                data = files[name]
                part.write_bytes(data.encode() if isinstance(data, str) else data)
            for name, part in parts.items():
                part.replace(folder / name)
        done = True
    finally:
        for part in parts.values():
            with suppress(OSError):
                part.unlink()
        if made and not done:
            with suppress(OSError):
                folder.rmdir()


@contextmanager
def no_room(path: Path, option: str, hint: str) -> Iterator[None]:
    """Turn an error of a disk that fills up during a run into one line.

    Args:
        path: the file that grows.
        option: the option that names it.
        hint: what to do then.
    """
    try:
        yield
    except OSError as error:
        if error.errno not in FULL:
            raise
        raise RefusedError(f"{option} {path}: can't be written ({error.strerror}); {hint}") from error


def drawn(figure: Figure, kind: str) -> bytes:
    """A figure as the content of a file: png, pdf or svg."""
    image = io.BytesIO()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph")  # of other scripts: boxes in the image
        figure.savefig(image, format=kind, dpi=160)
    return image.getvalue()
