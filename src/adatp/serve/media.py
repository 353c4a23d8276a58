"""Fetches and decodes the videos and images of a request within limits, or refuses them unread."""

from __future__ import annotations

import binascii
import os
import re
import stat
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import BinaryIO, cast
from urllib.parse import unquote, urlsplit

import numpy as np
from numpy.typing import NDArray

from adatp.errors import first_line
from adatp.serve.errors import RequestError
from adatp.serve.settings import MOST_FRAME_BYTES, MOST_PIXELS, Settings
from adatp.video import Video, VideoError, read_video
from adatp.video.addresses import is_address
from adatp.video.download import Limits, download
from adatp.video.opening import Check

_IMAGE_KINDS = ("PNG", "JPEG", "WEBP", "BMP")
"""Image formats that are decoded."""

_DATA = re.compile(r"data:([\w.+/-]*)((?:;[\w.+=-]+)*);base64,", re.ASCII | re.IGNORECASE)
_REASONS = 500
"""Most characters of a reason that are passed on."""


class MediaReader:
    """Reads the media of one request.

    All of them together may take `MOST_FRAME_BYTES` once they are decoded.
    """

    def __init__(self, settings: Settings, folder: Path, check: Check) -> None:
        """A reader for one request.

        Args:
            settings: settings of the server.
            folder: for files that exist while they are read.
            check: called repeatedly; an error that it raises ends the reading.
        """
        self._settings, self._folder, self._check = settings, folder, check
        self._room = MOST_FRAME_BYTES

    def video(self, url: str, frames: int) -> Video:
        """Read the frames of a video.

        Raises:
            RequestError: it is not allowed, or is no video.
        """
        most_pixels = min(MOST_PIXELS, self._room // (3 * frames))
        with self._file(url, "video_url") as (path, shown):
            try:
                video = read_video(
                    path,
                    frames,
                    most_seconds=self._settings.most_video_seconds,
                    most_pixels=most_pixels,
                    check=self._check,
                )
            except VideoError as error:
                raise _refused("video_url", str(error).replace(path, shown)) from error
        self._room -= video.frames.nbytes
        return video

    def image(self, url: str) -> NDArray[np.uint8]:
        """Read the pixels of an image, (H, W, 3).

        Raises:
            RequestError: it is not allowed, or is no image.
        """
        from PIL import Image

        with self._file(url, "image_url") as (path, shown):
            try:
                with Image.open(path, formats=_IMAGE_KINDS) as file:
                    if file.width * file.height > min(MOST_PIXELS, self._room // 3):
                        raise _refused(
                            "image_url", f"{shown}: {file.width}x{file.height} pixels are too many"
                        )
                    pixels = np.array(file.convert("RGB"))
            except RequestError:
                raise
            except Exception as error:  # pillow's readers raise any kind on damaged files
                why = first_line(error).replace(path, shown)
                raise _refused("image_url", f"{shown}: can't be read as an image ({why})") from error
        self._room -= pixels.nbytes
        return pixels

    @contextmanager
    def _file(self, url: str, param: str) -> Iterator[tuple[str, str]]:
        """The path of the file that a URL names, and the form of the URL in messages."""
        self._check()
        with ExitStack() as stack:
            if url[:5].lower() == "data:":
                file = stack.enter_context(self._own_file())
                _write_data(url, file, param)
                path, shown = file.name, "the data: URL"
            elif url[:5].lower() == "file:":
                descriptor = _open_local(url, self._settings.local_media, param)
                stack.callback(os.close, descriptor.number)
                path, shown = descriptor.path, url
            elif is_address(url):
                file = stack.enter_context(self._own_file())
                self._fetch(url, file, param)
                path, shown = file.name, url
            else:
                raise _refused(param, "the URL is none of data:, file:// and https://")
            yield path, shown[:200]

    def _own_file(self) -> BinaryIO:
        return cast(BinaryIO, tempfile.NamedTemporaryFile(dir=self._folder))

    def _fetch(self, url: str, file: BinaryIO, param: str) -> None:
        if not self._settings.remote_media:
            raise _refused(param, "this server fetches nothing from the web: send the video as a data: URL")
        limits = Limits(self._settings.most_media, self._settings.media_seconds, public_only=True)
        try:
            download(url, file, limits, check=self._check)
        except VideoError as error:
            raise _refused(param, str(error)) from error
        file.flush()


def _refused(param: str, reason: str) -> RequestError:
    return RequestError(400, f"{param}: {' '.join(reason.split())[:_REASONS]}", param)


def _write_data(url: str, file: BinaryIO, param: str) -> None:
    """Write the content of a ``data:`` URL into a file."""
    head = _DATA.match(url)
    if head is None:
        raise _refused(param, "a data: URL begins with data:video/mp4;base64, or the like")
    try:
        file.write(binascii.a2b_base64(url[head.end() :], strict_mode=True))
    except ValueError as error:
        raise _refused(param, f"the data: URL is no base64 ({first_line(error)})") from error
    file.flush()


class _Opened:
    """A file of this machine that is open.

    Attributes:
        number: its descriptor.
        path: to read it by.
    """

    def __init__(self, number: int, path: str) -> None:
        self.number, self.path = number, path


def _open_local(url: str, allowed: Path | None, param: str) -> _Opened:
    """Open the file that a ``file://`` URL names, if it is in the allowed folder.

    The message is the same for all files outside of the folder, whether they exist or not. If the system
    knows the path of an open file, that path is checked and read, even if a link on the way changes
    meanwhile.

    Raises:
        RequestError: it is not allowed.
    """
    if allowed is None:
        raise _refused(param, "this server reads no files of its machine: send the video as a data: URL")
    parts = urlsplit(url)
    named = unquote(parts.path, errors="surrogateescape")
    outside = _refused(param, "the file is not in the folder that this server may read")
    if parts.netloc not in ("", "localhost") or parts.query or parts.fragment or not named.startswith("/"):
        raise outside
    if "\0" in named:
        raise outside
    inside = os.path.realpath(allowed)
    real = os.path.realpath(named)
    if not Path(real).is_relative_to(inside):
        raise outside
    missing = _refused(param, f"{url[:200]}: no such file; check the path")
    try:
        number = os.open(real, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        raise missing from error
    try:
        if not stat.S_ISREG(os.fstat(number).st_mode):
            raise _refused(param, f"{url[:200]}: not a regular file; give one video file")
        if not sys.platform.startswith("linux"):
            return _Opened(number, real)
        path = f"/proc/self/fd/{number}"
        if not Path(os.path.realpath(path)).is_relative_to(inside):
            raise outside
        return _Opened(number, path)
    except BaseException:
        os.close(number)
        raise
