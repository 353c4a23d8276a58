"""Files that the user names: checked before anything slow, written whole or not at all."""

from __future__ import annotations

import io
import os
import tempfile
import warnings
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from adatp.errors import RefusedError

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def check_writable(path: Path, option: str = "--json") -> Path:
    """Where a file given by the user really is; refused if it could not be written at the end."""
    target = Path(os.path.realpath(path))
    if target.exists() and not target.is_file():
        raise RefusedError(f"{option} {path}: not a regular file")
    try:
        if target.exists():
            target.open("r+b").close()
        tempfile.TemporaryFile(dir=target.parent).close()
    except OSError as error:
        raise RefusedError(f"{option} {path}: can't be written ({error.strerror})") from error
    return target


def check_folder(path: Path, option: str) -> Path:
    """Where a folder given by the user really is; refused if no file could be written into it at the end."""
    target = Path(os.path.realpath(path))
    if target.exists() and not target.is_dir():
        raise RefusedError(f"{option} {path}: not a folder")
    try:
        tempfile.TemporaryFile(dir=target if target.exists() else target.parent).close()
    except OSError as error:
        raise RefusedError(f"{option} {path}: can't be written ({error.strerror})") from error
    return target


def write(path: Path, data: str | bytes, option: str = "--json") -> None:
    """Write a file whole or not at all."""
    part = path.with_name(f".adatp-{os.getpid()}.part")
    try:
        part.write_bytes(data.encode() if isinstance(data, str) else data)
        part.replace(path)
    except OSError as error:
        raise RefusedError(f"{option} {path}: can't be written ({error.strerror})") from error
    finally:
        part.unlink(missing_ok=True)


def check_figure(path: Path) -> Path:
    """Where a figure given by the user really goes; refused if it could not be drawn at the end."""
    if path.suffix not in (kinds := (".png", ".pdf", ".svg")):
        raise RefusedError(f"--plot {path}: the name ends in {', '.join(kinds)}")
    if find_spec("matplotlib") is None:
        raise RefusedError('--plot needs matplotlib: pip install "adatp[plot]"')
    check_writable(path.with_name(f"{path.stem}-thirds{path.suffix}"), "--plot")
    return check_writable(path, "--plot")


def draw(path: Path, figure: Figure, option: str = "--plot") -> None:
    """Write a figure whole or not at all."""
    picture = io.BytesIO()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph")  # of other scripts: boxes in the picture
        figure.savefig(picture, format=path.suffix[1:], dpi=160)
    write(path, picture.getvalue(), option)
