"""Reads the frames of a video from any source: a file, a folder of frame images, or an address on the web."""

from __future__ import annotations

import hashlib
import math
import os
import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO, cast
from urllib.parse import urlsplit

from adatp.video.addresses import is_address
from adatp.video.decoding import Fit
from adatp.video.download import Limits, Progress, download
from adatp.video.errors import VideoError
from adatp.video.folder import read_folder
from adatp.video.opening import Check
from adatp.video.reading import Video, read_video

MOST_CACHED = 20 << 30
"""Bytes of all downloads that are kept. Beyond this, the least recently used are removed."""


def read_source(
    source: str | os.PathLike[str],
    frames: int = 32,
    *,
    rate: float = 1.0,
    most_seconds: float = math.inf,
    most_pixels: float = math.inf,
    fit: Fit | None = None,
    check: Check | None = None,
    limits: Limits | None = None,
    progress: Progress | None = None,
) -> Video:
    """Read frames of a video, wherever it is.

    Args:
        source: A video file; a folder of frame images; an address of http or https, which is downloaded once
            and kept (`cache_folder`).
        frames: How many to return, spread uniformly.
        rate: Images per second of a folder.
        most_seconds, most_pixels, fit: As in `read_video`.
        check: As in `read_video`; also called during the download.
        limits: Limits of a download.
        progress: Progress of a download, see `download`.

    Raises:
        VideoError: It can't be fetched or read. The message begins with the source.
    """
    with local_file(source, limits=limits, check=check, progress=progress) as path:
        if os.path.isdir(path):
            return read_folder(path, frames, rate=rate, most_pixels=most_pixels, fit=fit, check=check)
        return read_video(
            path,
            frames,
            most_seconds=most_seconds,
            most_pixels=most_pixels,
            fit=fit,
            check=check,
        )


@contextmanager
def local_file(
    source: str | os.PathLike[str],
    *,
    limits: Limits | None = None,
    check: Check | None = None,
    progress: Progress | None = None,
) -> Iterator[str]:
    """The path of a source on this machine, valid while it is read.

    If a download turns out to be no video, it is not kept: a `VideoError` raised inside removes it, and then
    names the address instead of the file.

    Args:
        source: As in `read_source`; a path is returned as it is.
        limits, check, progress: As in `read_source`.

    Raises:
        VideoError: It can't be downloaded.
    """
    if not is_address(source):
        yield os.fspath(source)
        return
    address = str(source)
    path = _cached(address, limits or Limits(), check, progress)
    try:
        yield str(path)
    except VideoError as error:
        with suppress(OSError):
            path.unlink()
        raise VideoError(str(error).replace(str(path), address)) from error


def cache_folder() -> Path:
    """Folder of downloads: `adatp/videos` in $XDG_CACHE_HOME, which is ~/.cache if it is not set."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "adatp" / "videos"


def _cached(address: str, limits: Limits, check: Check | None, progress: Progress | None) -> Path:
    """The file of an address, downloaded now if it is not cached."""
    suffix = _suffix(address)
    name = hashlib.sha256(address.encode(errors="surrogatepass")).hexdigest()[:32]
    try:
        folder = cache_folder()
    except RuntimeError:  # an account without an entry and without $HOME, as in some containers
        raise VideoError(f"{address}: can't be kept in ~/.cache (there is no home folder)") from None
    path = folder / (name + (suffix if re.fullmatch(r"\.[A-Za-z0-9]{1,5}", suffix) else ""))
    try:
        if path.is_file():
            if path.stat().st_size > limits.most_bytes:
                raise VideoError(f"{address}: larger than {limits.most_bytes / 2**20:,.0f} MB, the limit")
            os.utime(path)
            return path
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        with tempfile.NamedTemporaryFile(dir=path.parent, suffix=".part", delete=False) as part:
            try:
                download(address, cast(BinaryIO, part), limits, check=check, progress=progress)
                part.close()
                os.replace(part.name, path)
            finally:
                with suppress(OSError):
                    os.unlink(part.name)
        _prune(path)
    except OSError as error:
        raise VideoError(f"{address}: can't be kept in {path.parent} ({error.strerror})") from error
    return path


def _suffix(address: str) -> str:
    """The ending of the file's name; none where the address is no address, which `download` says."""
    try:
        return os.path.splitext(urlsplit(address).path)[1]
    except ValueError:
        return ""


def _prune(newest: Path) -> None:
    """Remove the least recently used downloads until the others fit."""
    found = []
    for path in newest.parent.iterdir():
        with suppress(OSError):
            facts = path.stat()
            found.append((facts.st_mtime, facts.st_size, path))
    room = MOST_CACHED
    for _, size, path in sorted(found, reverse=True):
        room -= size
        if room < 0 and path != newest:
            with suppress(OSError):
                path.unlink()
