"""Opens, checks and samples video files. The only module that touches PyAV.

Every packet is listed first, without decoding, so that frames are counted and picked exactly, whatever the
container says of itself (variable frame rate, no stored frame count, B-frames, edit lists). Then only the
stretches from a keyframe to a picked frame are decoded. A file whose packets do not tell which frame they
hold is decoded through, twice: to count, then to pick. Either way only the picked frames are ever held.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import av
import numpy as np
from av.container import InputContainer
from av.packet import Packet
from av.stream import Disposition, Stream
from av.video.frame import VideoFrame
from av.video.reformatter import VideoReformatter
from av.video.stream import VideoStream

from adatp.errors import AdaTPError

# FFmpeg also opens playlists, which name other files and hosts, and text, which it draws: no videos.
_CONTAINERS = (
    "mov,matroska,avi,gif,mpegts,mpeg,mpegvideo,flv,asf,ogg,mxf,wtv,ivf,h264,hevc,obu,m4v,yuv4mpegpipe,"
    "mp3,wav,flac,aac"
)
_DECLARING = {"mov", "matroska", "avi"}  # containers that store how long they should be
_MAGIC = (b"\x1aE\xdf\xa3", b"RIFF")  # how MKV and WebM, and AVI, begin; MP4 and MOV have "ftyp" at 4
_NO_TIME = -(1 << 63)  # FFmpeg's AV_NOPTS_VALUE
_GUESSED_RATE = 25  # frames per second, FFmpeg's own guess
_CUT_SHORT = "the video is cut short or damaged; copy or download it again"
_NO_VIDEO = "not a video that FFmpeg can read; give an MP4, MKV, WebM or AVI file"


class VideoError(AdaTPError, ValueError):
    """A file that cannot be read as a video. The message is one line that says what to do."""


@dataclass(frozen=True)
class Video:
    """Frames sampled from a video file.

    Attributes:
        frames: uint8 RGB, shape (F, H, W, 3), upright: rotated as the file's metadata asks.
        timestamps: float64, shape (F,), seconds from the first frame of the stream to each frame returned.
        duration: Seconds from the start of the stream's first frame to the end of its last.
        fps: Average frame rate of the stream, frames per second; 0 if a lone frame's cannot be told.
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
) -> Video:
    """Reads `frames` frames spread uniformly from the first to the last frame of a video file.

    Frames are picked at `linspace(0, total - 1, frames)` rounded down, in presentation order: the rule of the
    field's evaluations. A video with fewer frames than asked gives every frame once. The first video stream
    that is not cover art is read.

    Args:
        path: A local file: MP4, MOV, MKV, WebM, AVI, GIF or another container that FFmpeg knows.
        frames: How many frames to return, at least 1.
        most_seconds: A longer video is refused before anything is decoded.
        most_pixels: So is one with larger frames: width times height.

    Raises:
        VideoError: `frames` is below 1, or the file is missing, no video, cut short, beyond a limit or has no
            video stream that can be decoded.
    """
    if frames < 1:
        raise VideoError(f"frames is {frames}: ask for at least 1")
    file = os.path.abspath(os.fspath(path))  # FFmpeg would take "a:b.mp4" for a URL, never "/a:b.mp4"
    if not os.path.exists(file):
        raise VideoError(f"{path}: no such file; check the path")
    if not os.path.isfile(file):
        raise VideoError(f"{path}: not a regular file; give the path of one video file")
    try:
        with open(file, "rb") as stream:
            head = stream.read(12)
        if not head:
            raise VideoError(f"{path}: the file is empty; copy or download it again")
        return _read(file, frames, most_seconds, most_pixels)
    except _RefusedError as error:
        raise VideoError(f"{path}: {error}") from None
    except PermissionError as error:
        raise VideoError(f"{path}: not readable; check the permissions of the file") from error
    except av.FFmpegError as error:
        is_video = head[4:8] == b"ftyp" or head[:4] in _MAGIC
        raise VideoError(f"{path}: {_CUT_SHORT if is_video else _NO_VIDEO}") from error


class _RefusedError(Exception):
    """Why a file is refused, without its name."""


@contextmanager
def _open(file: str) -> Iterator[tuple[InputContainer, VideoStream]]:
    options = {"protocol_whitelist": "file", "format_whitelist": _CONTAINERS}
    with av.open(file, "r", container_options=options, metadata_errors="replace") as container:
        streams = [s for s in container.streams.video if not s.disposition & Disposition.attached_pic]
        if not len(container.streams):
            raise _RefusedError(_CUT_SHORT)
        if not streams:
            raise _RefusedError("no video stream in it (audio only?); give a file with pictures")
        stream = streams[0]
        if stream.codec_context is None:
            raise _RefusedError("no decoder for its video codec; convert it, to H.264 for example")
        stream.thread_type = "AUTO"
        yield container, stream


def _demux(container: InputContainer, *streams: Stream) -> Iterator[Packet[Stream]]:
    try:
        yield from container.demux(*streams)
    except IndexError:  # PyAV's own, after the last packet, where a stream appears later than the header
        return


@dataclass(frozen=True)
class _Packets:
    """The packets of a video stream as stored, which is the order of decoding."""

    pts: np.ndarray  # (N,) int64 ticks
    seeks: np.ndarray  # (N,) int64 ticks, times that seek to a packet or before it
    keys: np.ndarray  # (K,) positions of keyframes, ascending
    shown: np.ndarray  # (S,) positions of frames in presentation order; empty where pts do not tell it
    pause: float  # seconds, the longest between two frames
    last: float  # seconds, duration of the last frame, 0 if unknown
    tick: float  # seconds
    rate: float  # frames per second in the container's word, 0 if it has none
    size: tuple[int, int]  # width and height in the container's word

    @property
    def seconds(self) -> float:
        """About how long the stream is."""
        if len(self.shown):
            return float(self.pts[self.shown[-1]] - self.pts[self.shown[0]]) * self.tick + self.last
        return len(self.pts) / (self.rate or _GUESSED_RATE)


def _scan(file: str) -> _Packets:
    """Lists every packet, decoding none; refuses a file that ends before it should."""
    listed, end, corrupt = [], 0.0, False
    with _open(file) as (container, stream):
        ticks = {each.index: float(each.time_base or 0) for each in container.streams}
        index, tick = stream.index, ticks[stream.index]
        try:
            for packet in _demux(container, *container.streams):
                pts, dts, duration, owner = packet.pts, packet.dts, packet.duration or 0, packet.stream_index
                if pts is None and dts is None and not packet.size:  # the flush mark after a stream's end
                    continue
                times = [time for time in (pts, dts) if time is not None] or [0]
                end = max(end, (times[0] + duration) * ticks.get(owner, 0.0))
                corrupt = packet.is_corrupt
                if owner == index:
                    key, hidden = packet.is_keyframe, packet.is_discard
                    listed.append((_NO_TIME if pts is None else pts, min(times), duration, key, hidden))
        except av.FFmpegError:
            raise _RefusedError(_CUT_SHORT) from None
        if not listed:
            raise _RefusedError(_CUT_SHORT)
        pts, seeks, durations, keys, hidden = np.array(listed, np.int64).T
        kind = set(container.format.name.split(","))
        # AVI stores no pts, and those that FFmpeg makes up for reordered H.264 follow the order of decoding.
        made_up = "avi" in kind and stream.codec_context.has_b_frames
        size = stream.codec_context.width, stream.codec_context.height
        rate, declared = float(stream.average_rate or 0), (container.duration or 0) / av.time_base
    shown = np.flatnonzero(hidden == 0)
    if made_up or _NO_TIME in pts or len(np.unique(pts)) < len(pts):
        shown = shown[:0]
    shown = shown[np.argsort(pts[shown])]
    pause = float(np.diff(pts[shown]).max(initial=0)) * tick
    if kind & _DECLARING and (corrupt or _is_loss(declared - end, declared, pause)):
        raise _RefusedError(_CUT_SHORT)
    last = float(durations[shown[-1]]) * tick if len(shown) else 0.0
    return _Packets(pts, seeks, np.flatnonzero(keys), shown, pause, last, tick, rate, size)


def _is_loss(missing: float, total: float, pause: float) -> bool:
    """Whether `missing` seconds of `total` are more than a pause between frames, rounding and padding."""
    return missing > max(0.15, 0.02 * total, pause)


_Sample = tuple[np.ndarray, np.ndarray, np.ndarray]
"""Images (F, H, W, 3); seconds of all frames of the stream from the first; which of these are picked (F,)."""


def _read(file: str, frames: int, most_seconds: float, most_pixels: float) -> Video:
    packets = _scan(file)
    if packets.seconds > most_seconds:
        raise _RefusedError(
            f"{packets.seconds:.0f} seconds long, the limit is {most_seconds:.0f}; cut a part out of it"
        )
    width, height = packets.size
    if width * height > most_pixels:
        raise _RefusedError(
            f"{width}x{height} pixels a frame, the limit is {most_pixels / 1e6:.1f} million; scale it down"
        )
    images, seconds, picks = _by_seeking(file, packets, frames) or _by_decoding(file, packets, frames)
    span = float(seconds[-1])
    interval = span / (len(seconds) - 1) if span else 1 / packets.rate if packets.rate else 0.0
    fps = 1 / interval if interval else 0.0
    return Video(images, seconds[picks], duration=span + (packets.last or interval), fps=fps)


def _uniform(total: int, frames: int) -> np.ndarray:
    return np.linspace(0, total - 1, min(total, frames)).astype(int)


def _by_seeking(file: str, packets: _Packets, frames: int) -> _Sample | None:
    """Decodes from keyframes to picked frames only; None where the packets do not tell, or tell wrong."""
    if not len(packets.shown):
        return None
    pts = packets.pts[packets.shown]
    picks = _uniform(len(pts), frames)
    decoded = _decode_to(file, packets, packets.shown[picks].tolist())
    try:
        images = _collect(((frame.pts, frame) for frame in decoded), pts[picks].tolist())
    except av.FFmpegError:
        return None
    return None if images is None else (images, (pts - pts[0]) * packets.tick, picks)


def _by_decoding(file: str, packets: _Packets, frames: int) -> _Sample:
    """Decodes everything, once to count the frames that come out and once to pick."""
    came = [frame.pts for frame in _decode_all(file)]
    pts = np.sort([time for time in came if time is not None])
    if len(pts) < len(came):  # bare streams
        pts = np.arange(len(came)) / (packets.rate or _GUESSED_RATE) / packets.tick
    elif len(pts) and len(packets.shown):
        first, last = packets.pts[packets.shown[[0, -1]]]
        missing = np.diff(pts, prepend=first, append=last).max() * packets.tick
        if _is_loss(missing, (last - first) * packets.tick, packets.pause):
            raise _RefusedError(_CUT_SHORT)
    picks = _uniform(len(came), frames)
    images = _collect(enumerate(_decode_all(file)), picks.tolist())
    if images is None:
        raise _RefusedError(_CUT_SHORT)
    return images, (pts - pts[0]) * packets.tick, picks


def _collect(labelled: Iterable[tuple[int | None, VideoFrame]], wanted: list[int]) -> np.ndarray | None:
    """The frames labelled as `wanted`, one RGB array; None if one is missing or the labels do not ascend."""
    slots = {label: slot for slot, label in enumerate(wanted)}
    reformatter, size, images, previous = VideoReformatter(), None, None, None
    for label, frame in labelled:
        if label is None or (previous is not None and label <= previous):
            return None
        previous = label
        if label not in slots:
            continue
        size = size or (frame.width, frame.height)  # a stream may change it on the way
        rgb = reformatter.reformat(frame, *size, format="rgb24").to_ndarray()
        upright = np.rot90(rgb, round(frame.rotation / 90))  # the matrix's angle is counterclockwise
        if images is None:
            images = np.empty((len(wanted), *upright.shape), np.uint8)
        images[slots.pop(label)] = upright
        if not slots:
            return images
    return None


def _decode_all(file: str) -> Iterator[VideoFrame]:
    with _open(file) as (container, stream):
        for packet in _demux(container, stream):
            try:
                yield from stream.decode(packet)
            except av.FFmpegError:  # players skip what does not decode, and so do we
                continue


def _decode_to(file: str, packets: _Packets, picks: list[int]) -> Iterator[VideoFrame]:
    """Decodes the packets at positions `picks`, each from its keyframe on.

    That is the last keyframe stored before it and not shown after it: in an open GOP, the GOP before's.
    """
    positions: dict[int | None, int] = {time: position for position, time in enumerate(packets.pts.tolist())}
    spans: list[tuple[int, int]] = []  # [start, stop) of packets, ascending and apart
    for pick in sorted(picks):
        keys = packets.keys[: np.searchsorted(packets.keys, pick, side="right")]
        start = next((int(key) for key in keys[::-1] if packets.pts[key] <= packets.pts[pick]), 0)
        while spans and start <= spans[-1][1]:
            start = min(start, spans.pop()[0])
        spans.append((start, pick + 1))
    with _open(file) as (container, stream):
        for start, stop in spans:
            if start:
                container.seek(int(packets.seeks[start]), stream=stream)
            started = False
            for packet in _demux(container, stream):
                position = positions.get(packet.pts, stop)
                started = started or position == start  # a seek may land before it, or, useless, after it
                if started:
                    yield from stream.decode(packet)
                if position + 1 >= stop:
                    break
            yield from stream.decode(None)  # the frames that the decoder still holds
