"""Reads a folder of frame images as a video, in natural order: frame-2 before frame-10."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

import av
import numpy as np
from av.video.frame import VideoFrame

from adatp.video.decoding import Fit, UntrueError, collect
from adatp.video.errors import NO_MEMORY, UnreadableError, VideoError, too_large
from adatp.video.opening import NO_LIMIT, Check
from adatp.video.reading import Video, check_number

SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp")
"""Endings of the names of frame images, in lower or upper case. Other files are ignored."""

_KINDS = {b"\xff\xd8\xff": "jpeg_pipe", b"\x89PNG": "png_pipe", b"BM": "bmp_pipe", b"RIFF": "webp_pipe"}
"""First bytes of image files, with the name of FFmpeg's reader for one such image."""


def read_folder(
    folder: str | os.PathLike[str],
    frames: int = 32,
    *,
    rate: float = 1.0,
    most_pixels: float = math.inf,
    fit: Fit | None = None,
    check: Check | None = None,
) -> Video:
    """Read `frames` images spread uniformly over a folder, as `read_video` picks frames of a file.

    Images are ordered by name; numbers in names count as numbers. Hidden files, folders, and files with other
    endings than `SUFFIXES` are left out. Images of other sizes are scaled to the first one's.

    Args:
        folder: A folder of images.
        frames: How many to return, at least 1. A folder with fewer gives every image once.
        rate: Images per second: images have no times of their own.
        most_pixels: Larger images are refused: width times height.
        fit: As in `read_video`.
        check: Called before every image.

    Raises:
        VideoError: `frames` is below 1, the folder has no images, or one can't be read.
    """
    check_number(frames)
    images = images_of(folder)
    picks = np.linspace(0, len(images) - 1, min(len(images), frames)).astype(int)
    decoded = _decoded([images[pick] for pick in picks], most_pixels, check)
    try:
        pixels = collect(enumerate(decoded), list(range(len(picks))), fit)
    except MemoryError as error:
        raise VideoError(f"{folder}: {NO_MEMORY}") from error
    except UntrueError:  # only if files changed: `_decoded` gives one frame per file
        raise VideoError(f"{folder}: its images can't be read") from None
    return Video(pixels, picks / rate, duration=len(images) / rate, fps=rate)


def images_of(folder: str | os.PathLike[str]) -> list[Path]:
    """The images of a folder in natural order.

    Raises:
        VideoError: there are none, one is a pipe, a device or a link that leads nowhere, or the folder can't
            be read.
    """
    try:
        found = [
            path
            for path in Path(folder).iterdir()
            if path.suffix.lower() in SUFFIXES and not path.name.startswith(".") and not path.is_dir()
        ]
        odd = [path for path in found if not path.is_file()]
    except OSError as error:
        raise VideoError(f"{folder}: the folder can't be read ({error.strerror})") from error
    if odd:
        raise VideoError(f"{min(odd)}: not a regular file, or a link to none; replace or remove it")
    if not found:
        kinds = ", ".join(SUFFIXES)
        raise VideoError(f"{folder}: a folder without frame images ({kinds}); give a video file, or frames")
    return sorted(found, key=lambda path: natural(path.name))


def natural(name: str) -> tuple[tuple[tuple[int, int, str], ...], str]:
    """A key that sorts names with their numbers as numbers, and otherwise as a reader would."""
    parts = re.findall(r"[0-9]+|[^0-9]+", name)
    key = tuple((0, int(part), "") if part[0] in "0123456789" else (1, 0, part.lower()) for part in parts)
    return key, name


def _decoded(images: Sequence[Path], most_pixels: float, check: Check | None) -> Iterator[VideoFrame]:
    for image in images:
        if check is not None:
            check()
        try:
            yield _decode(image, most_pixels)
        except UnreadableError as error:
            raise VideoError(f"{image}: {error}") from None
        except (av.FFmpegError, OSError) as error:
            raise VideoError(f"{image}: not an image, or damaged; replace or remove it") from error


def _decode(image: Path, most_pixels: float) -> VideoFrame:
    with image.open("rb") as file:
        head = file.read(12)
    kind = next((name for magic, name in _KINDS.items() if head.startswith(magic)), None)
    if kind is None:
        raise UnreadableError("not an image, or damaged; replace or remove it")
    options = {"protocol_whitelist": "file", "format_whitelist": kind}
    file_name = os.path.abspath(image)  # FFmpeg would take "a:b.png" for an address
    with av.open(
        file_name, "r", format=kind, container_options=options, metadata_errors="replace"
    ) as container:
        stream = container.streams.video[0]
        if most_pixels < NO_LIMIT:
            width, height = stream.codec_context.width, stream.codec_context.height
            if width * height > most_pixels:
                raise too_large(width, height, most_pixels)
            stream.codec_context.options = {"max_pixels": str(int(1.1 * most_pixels) + 2**18)}
        for frame in container.decode(stream):
            if frame.width * frame.height > most_pixels:
                raise too_large(frame.width, frame.height, most_pixels)
            return frame
    raise UnreadableError("not an image, or damaged; replace or remove it")
