"""Decodes a complete stream, or only the stretches that lead to picked frames."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

import av
import numpy as np
from av.container import InputContainer
from av.video.frame import VideoFrame
from av.video.reformatter import Interpolation, VideoReformatter
from av.video.stream import VideoStream

from adatp.video.errors import GROWS, UnreadableError, too_large
from adatp.video.opening import NO_LIMIT, demux, open_stream
from adatp.video.scanning import Packets
from adatp.video.upright import orientation

Fit = Callable[[int, int, int], tuple[int, int]]
"""Maps the number of frames, their height and width to the height and width that they are kept in."""

_OLD, _BT601 = int(av.__version__.split(".")[0]) < 17, 5


class UntrueError(Exception):
    """The packets of a file differ from what they announce. This error never leaves the package."""


def decode_all(file: str, stream_index: int, most_pixels: float) -> Iterator[VideoFrame]:
    """Every frame that decodes, in the order of presentation.

    Raises:
        UnreadableError: A frame has more than `most_pixels`.
    """
    with open_stream(file, stream_index, most_pixels) as (container, stream):
        for packet in demux(container, stream):
            try:
                frames = stream.decode(packet)
            except av.FFmpegError as error:  # players skip what does not decode, and so do we
                _check_refusal(error, stream, most_pixels)
                continue
            for frame in frames:
                yield _measured(frame, most_pixels)


def decode_to(file: str, packets: Packets, picks: list[int], most_pixels: float) -> Iterator[VideoFrame]:
    """Decode the packets at positions `picks`, each from its keyframe on.

    Its keyframe is the last one stored before it and not shown after it: in an open GOP, that of the GOP
    before. Frames come in the order of presentation.

    Raises:
        UntrueError: A stretch does not begin with a keyframe, its packets are not those that were listed, or
            they do not hold the frames that they announce.
        UnreadableError: A frame has more than `most_pixels`.
        av.FFmpegError: A packet does not decode.
    """
    positions = {time: position for position, time in enumerate(packets.pts.tolist())}
    with open_stream(file, packets.stream, most_pixels) as (container, stream):
        for start, stop in _stretches(packets, picks):
            if start:
                container.seek(int(packets.seeks[start]), stream=stream)
            frames = _decode_stretch(container, stream, packets, positions, start, stop, most_pixels)
            yield from _checked(frames, packets, start, stop, most_pixels)


def _stretches(packets: Packets, picks: list[int]) -> list[tuple[int, int]]:
    """The [start, stop) of packets that lead to `picks`, ascending and apart."""
    stretches: list[tuple[int, int]] = []
    for pick in sorted(picks):
        keys = packets.keys[: np.searchsorted(packets.keys, pick, side="right")]
        start = next((int(key) for key in keys[::-1] if packets.pts[key] <= packets.pts[pick]), 0)
        while stretches and start <= stretches[-1][1]:
            start = min(start, stretches.pop()[0])
        stretches.append((start, pick + 1))
    return stretches


def _decode_stretch(
    container: InputContainer,
    stream: VideoStream,
    packets: Packets,
    positions: dict[int, int],
    start: int,
    stop: int,
    most_pixels: float,
) -> Iterator[VideoFrame]:
    expected = None  # the position of the next packet, once the stretch has begun
    try:
        for packet in demux(container, stream):
            position = stop if packet.pts is None else positions.get(packet.pts, stop)
            if expected is None and position == start:  # a seek may land before it, or, useless, after it
                expected = start
            if expected is not None and packet.size:
                if position != expected or packet.size != packets.sizes[position]:
                    raise UntrueError
                expected += 1
                yield from stream.decode(packet)
            if position + 1 >= stop:
                break
        yield from stream.decode(None)  # the frames that the decoder still holds
    except av.FFmpegError as error:
        _check_refusal(error, stream, most_pixels)
        raise


def _checked(
    frames: Iterable[VideoFrame], packets: Packets, start: int, stop: int, most_pixels: float
) -> Iterator[VideoFrame]:
    """`frames` from the keyframe at `start` on, if they match the packets up to `stop`."""
    begin = int(packets.pts[start])
    shown = np.zeros(stop - start, bool)
    shown[packets.shown[(packets.shown >= start) & (packets.shown < stop)] - start] = True
    missing = {time for time in packets.pts[start:stop][shown].tolist() if time >= begin}
    hidden = begin not in missing  # an edit begins after the keyframe, which is decoded but not shown
    for frame in frames:
        measured = _measured(frame, most_pixels)
        if frame.pts is None or frame.is_corrupt:
            raise UntrueError
        if frame.pts < begin:  # in an open GOP, frames shown before the keyframe
            continue
        if not hidden and begin in missing and (frame.pts != begin or not frame.key_frame):
            raise UntrueError
        missing.discard(frame.pts)
        yield measured
    if missing:
        raise UntrueError


def collect(
    labelled: Iterable[tuple[int | None, VideoFrame]], wanted: list[int], fit: Fit | None = None
) -> np.ndarray:
    """The frames labelled `wanted` in one array, shape (F, H, W, 3), uint8 RGB, upright.

    If a stream changes its size or orientation, its frames are scaled to the size of the first one. `fit` is
    called once, before the first frame is kept.

    Raises:
        UntrueError: One is missing, or the labels do not ascend.
    """
    slots = {label: slot for slot, label in enumerate(wanted)}
    reformatter, images, previous = VideoReformatter(), None, None
    size, scaling = (0, 0), Interpolation.BILINEAR
    for label, frame in labelled:
        if label is None or (previous is not None and label <= previous):
            raise UntrueError
        previous = label
        if label not in slots:
            continue
        lay = orientation(frame)
        if images is None:
            height, width = (frame.width, frame.height) if lay.transposed else (frame.height, frame.width)
            size = (height, width) if fit is None else fit(len(wanted), height, width)
            if size != (height, width):  # an average of all pixels
                scaling = Interpolation.AREA
            images = np.empty((len(wanted), *size, 3), np.uint8)
        rows, columns = size[::-1] if lay.transposed else size
        images[slots.pop(label)] = lay.apply(_rgb(reformatter, frame, (columns, rows), scaling))
        if not slots:
            return images
    raise UntrueError


def _measured(frame: VideoFrame, most_pixels: float) -> VideoFrame:
    if frame.width * frame.height > most_pixels:
        raise too_large(frame.width, frame.height, most_pixels)
    return frame


def _check_refusal(error: av.FFmpegError, stream: VideoStream, most_pixels: float) -> None:
    """Raise if the decoder refused to allocate a frame that is too large, whatever its error says."""
    if most_pixels >= NO_LIMIT:
        return
    width, height = stream.codec_context.width, stream.codec_context.height
    if width * height > most_pixels:
        raise too_large(width, height, most_pixels)
    if not isinstance(error, av.InvalidDataError):
        raise UnreadableError(GROWS)


def _rgb(
    reformatter: VideoReformatter, frame: VideoFrame, size: tuple[int, int], scaling: Interpolation
) -> np.ndarray:
    """A frame's pixels (H, W, 3), resized to ``size`` (width, height)."""
    # Before version 17, PyAV assumes BT.601 colours for every frame that does not declare them.
    said = {"src_colorspace": frame.colorspace, "dst_colorspace": _BT601} if _OLD else {}
    return reformatter.reformat(frame, *size, format="rgb24", interpolation=scaling, **said).to_ndarray()
