"""Reads frames from a video file, and explains in one line why one can't be read."""

from __future__ import annotations

import math
import os
from dataclasses import dataclass

import av
import numpy as np

from adatp.numbers_given import is_integer
from adatp.video.decoding import Fit, UntrueError, collect, decode_all, decode_to
from adatp.video.errors import (
    CUT_SHORT,
    ENCRYPTED,
    NO_MEMORY,
    NO_VIDEO,
    WEBP,
    UnreadableError,
    VideoError,
    too_large,
)
from adatp.video.opening import Check, checked_by
from adatp.video.scanning import GUESSED_RATE, Packets, scan
from adatp.video.structure import is_scrambled
from adatp.video.timeline import is_loss, longest_hole, steady

_MATROSKA = b"\x1aE\xdf\xa3"  # how MKV and WebM begin
_RECOVERING = {"h264", "hevc"}  # their decoders show nothing before a frame is complete


@dataclass(frozen=True)
class Video:
    """Frames sampled from a video file.

    Attributes:
        frames: uint8 RGB, shape (F, H, W, 3), upright: turned and mirrored as the file's metadata asks.
        timestamps: float64, shape (F,), seconds from the first frame of the stream to each frame returned.
        duration: Seconds from the start of the stream's first frame to the end of its last.
        fps: Average frame rate of the stream, frames per second; 0 if unknown, for a single frame.
    """

    frames: np.ndarray
    timestamps: np.ndarray
    duration: float
    fps: float


def read_video(
    path: str | os.PathLike[str],
    frames: int = 32,
    *,
    most_seconds: float = math.inf,
    most_pixels: float = math.inf,
    fit: Fit | None = None,
    check: Check | None = None,
) -> Video:
    """Read `frames` frames spread uniformly from the first to the last frame of a video file.

    Frames are picked at `linspace(0, total - 1, frames)` rounded down, in presentation order, as evaluations
    of the field do. A video with fewer frames gives every frame once. Of several video streams, the one with
    most frames is read; ties go to the file's default, then to one in colour. Cover art does not count. If
    the size changes within the stream, frames are scaled to the first one's.

    Args:
        path: A local file: MP4, MOV, MKV, WebM, AVI, GIF or another container that FFmpeg knows.
        frames: How many frames to return, at least 1.
        most_seconds: A longer video is refused before anything is decoded.
        most_pixels: A video with larger frames (width times height) is refused too. If frames grow beyond the
            limit within the stream, it is refused at the first such frame.
        fit: Called once, before a frame is kept: takes the number of frames, their height and width, and
            returns the height and width to keep them in. Frames are scaled as they are decoded, so only one
            of full size is held. Its errors are passed on.
        check: Called at every packet that is read or decoded. An error that it raises ends the reading: a
            limit of time, or a request that nobody waits for any more.

    Raises:
        VideoError: `frames` is below 1, or the file is missing, no video, cut short, encrypted, beyond a
            limit or has no video stream that can be decoded.
    """
    check_number(frames)
    if math.isnan(most_seconds) or math.isnan(most_pixels):
        raise VideoError("a limit that is not a number limits nothing: leave most_seconds or most_pixels out")
    if not os.fspath(path):
        raise VideoError("the path of the video is empty")
    file = os.path.abspath(os.fspath(path))  # FFmpeg would take "a:b.mp4" for a URL, never "/a:b.mp4"
    if not os.path.exists(file):
        raise VideoError(f"{path}: no such file; check the path")
    if not os.path.isfile(file):
        raise VideoError(f"{path}: not a regular file; give the path of one video file")
    try:
        head = _first_bytes(file)
        if not head:
            raise VideoError(f"{path}: the file is empty; copy or download it again")
        if head[:4] == b"RIFF" and head[8:] == b"WEBP":
            raise VideoError(f"{path}: {WEBP}")
        with checked_by(check):
            return _read(file, frames, most_seconds, most_pixels, fit)
    except UnreadableError as error:
        raise VideoError(f"{path}: {error}") from None
    except PermissionError as error:
        raise VideoError(f"{path}: not readable; check the permissions of the file") from error
    except MemoryError as error:
        raise VideoError(f"{path}: {NO_MEMORY}") from error
    except av.FFmpegError as error:
        is_avi = head[:4] == b"RIFF" and head[8:] in (b"AVI ", b"AVIX")
        is_video = is_avi or head[4:8] == b"ftyp" or head[:4] == _MATROSKA
        if is_video or is_scrambled(file):
            raise VideoError(f"{path}: {CUT_SHORT if is_video else ENCRYPTED}") from error
        raise VideoError(f"{path}: {NO_VIDEO}") from error


def check_number(frames: int) -> None:
    """Refuse a number of frames that is no whole number, or below 1.

    Raises:
        VideoError: it is.
    """
    if not is_integer(frames) or frames < 1:
        raise VideoError(f"frames is {frames!r}: ask for a whole number, at least 1")


_Sample = tuple[np.ndarray, np.ndarray, np.ndarray]
"""Images (F, H, W, 3); seconds of all frames of the stream from the first; indices of the picked frames
(F,).
"""


def _first_bytes(file: str) -> bytes:
    """The first 12 bytes of a file, which say what it claims to be."""
    try:
        with open(file, "rb") as stream:
            return stream.read(12)
    except PermissionError:
        raise
    except OSError as error:  # such as a disk that fails
        raise UnreadableError(f"can't be read ({error.strerror})") from error


def _read(file: str, frames: int, most_seconds: float, most_pixels: float, fit: Fit | None) -> Video:
    packets = scan(file)
    if packets.seconds > most_seconds:
        raise UnreadableError(
            f"{packets.seconds:.0f} seconds long, the limit is {most_seconds:.0f}; cut a part out of it"
        )
    width, height = packets.size
    if width * height > most_pixels:
        raise too_large(width, height, most_pixels)
    sample = by_seeking(file, packets, frames, most_pixels, fit)
    images, seconds, picks = sample or by_decoding(file, packets, frames, most_pixels, fit)
    span = float(seconds[-1])
    interval = span / (len(seconds) - 1) if span else 1 / packets.rate if packets.rate else 0.0
    fps = 1 / interval if interval else 0.0
    return Video(images, seconds[picks], duration=span + (packets.last or interval), fps=fps)


def _uniform(total: int, frames: int) -> np.ndarray:
    return np.linspace(0, total - 1, min(total, frames)).astype(int)


def by_seeking(
    file: str, packets: Packets, frames: int, most_pixels: float = math.inf, fit: Fit | None = None
) -> _Sample | None:
    """Decode only from keyframes to picked frames. None if the packets do not give their frames, or give
    them wrong.
    """
    if not len(packets.shown):
        return None
    pts = packets.pts[packets.shown]
    picks = _uniform(len(pts), frames)
    decoded = decode_to(file, packets, packets.shown[picks].tolist(), most_pixels)
    try:
        images = collect(((frame.pts, frame) for frame in decoded), pts[picks].tolist(), fit)
    except (UntrueError, av.FFmpegError):
        return None
    return images, (pts - pts[0]) * packets.tick, picks


def by_decoding(
    file: str, packets: Packets, frames: int, most_pixels: float = math.inf, fit: Fit | None = None
) -> _Sample:
    """Decode everything, once to count the frames that come out and once to pick."""
    times, keys = [], []
    for frame in decode_all(file, packets.stream, most_pixels):
        times.append(frame.pts)
        keys.append(bool(frame.key_frame))
    skipped = _undecodable(packets, keys)
    came = times[skipped:]
    pts = np.array([time for time in came if time is not None], np.int64)
    seconds: np.ndarray
    if len(pts) < len(came):  # bare streams
        seconds = np.arange(len(came)) / (packets.rate or GUESSED_RATE)
    elif packets.jumps:
        seconds = steady(pts, packets.tick, packets.rate or GUESSED_RATE) * packets.tick
    else:
        pts = np.sort(pts)
        _check_holes(packets, pts)
        seconds = (pts - pts[:1]) * packets.tick
    if not len(came):
        raise UnreadableError(CUT_SHORT)
    picks = _uniform(len(came), frames)
    again = enumerate(decode_all(file, packets.stream, most_pixels), -skipped)
    try:
        return collect(again, picks.tolist(), fit), seconds, picks
    except UntrueError:
        raise UnreadableError(CUT_SHORT) from None


def _undecodable(packets: Packets, keys: list[bool]) -> int:
    """Number of unusable frames at the start of a recording that begins in the middle of a GOP.

    Most decoders show them, over grey. Those of H.264 and HEVC wait for a complete frame.
    """
    begins_amid = len(packets.keys) and packets.keys[0] > 0 and packets.codec not in _RECOVERING
    return keys.index(True) if begins_amid and True in keys else 0


def _check_holes(packets: Packets, came: np.ndarray) -> None:
    """Refuse a video of which too much does not decode.

    Packets before the first keyframe do not count: a recording may begin anywhere. Packets of a few bytes do
    not count either: they say that the frame before stays.
    """
    shown = packets.shown[packets.sizes[packets.shown] > 10]
    begins = packets.pts[packets.keys[0]] if len(packets.keys) else -math.inf
    expected = packets.pts[shown]
    expected = expected[expected >= begins]
    if not len(expected):
        return
    seconds = (expected - expected[0]) * packets.tick
    hole = longest_hole(seconds, np.isin(expected, came), packets.last)
    if is_loss(hole, float(seconds[-1])) or not len(came):
        raise UnreadableError(CUT_SHORT)
