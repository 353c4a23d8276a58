"""Opens a container with the allowed formats and protocols, and finds its video streams."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar

import av
from av.container import InputContainer
from av.packet import Packet
from av.stream import Disposition, Stream
from av.video.stream import VideoStream

from adatp.video.errors import CUT_SHORT, ENCRYPTED, NO_DECODER, NO_STREAM, UnreadableError
from adatp.video.structure import declares_encryption

# FFmpeg also opens playlists, which name other files and hosts, and text, which it draws. They are no videos.
_CONTAINERS = (
    "mov,matroska,avi,gif,apng,mpegts,mpeg,mpegvideo,flv,asf,ogg,mxf,wtv,ivf,h264,hevc,obu,m4v,yuv4mpegpipe,"
    "rm,dv,nut,mp3,wav,flac,aac"
)
NO_LIMIT = 2**30  # pixels; FFmpeg refuses larger frames by itself
Check = Callable[[], object]
"""Called repeatedly while a video is fetched or read. An error that it raises ends that."""

_CHECK: ContextVar[Check | None] = ContextVar("adatp-check", default=None)
_THREADS: ContextVar[int] = ContextVar("adatp-threads", default=0)
_ENCRYPTED_KEYS = {"enc_key_id", "asf_protection_type", "asf_key_id"}  # metadata of Matroska and ASF


@contextmanager
def open_container(file: str) -> Iterator[InputContainer]:
    """Open a local file with the allowed formats.

    Raises:
        UnreadableError: It has no streams.
        av.FFmpegError: FFmpeg can't open it, or its format isn't allowed.
    """
    options = {"protocol_whitelist": "file", "format_whitelist": _CONTAINERS}
    with av.open(file, "r", container_options=options, metadata_errors="replace") as container:
        if not len(container.streams):
            raise UnreadableError(CUT_SHORT)
        yield container


@contextmanager
def open_stream(
    file: str, index: int, most_pixels: float = float("inf")
) -> Iterator[tuple[InputContainer, VideoStream]]:
    """Open a file to decode the video stream at `index`.

    The decoder allocates no frame far above `most_pixels`: it raises `av.ArgumentError` instead. It counts
    padding too, so the caller still has to measure the frames that come through.
    """
    with open_container(file) as container:
        stream = container.streams[index]
        if not isinstance(stream, VideoStream):
            raise UnreadableError(CUT_SHORT)  # the file changed after it was scanned
        stream.thread_type = "AUTO"
        stream.codec_context.thread_count = _THREADS.get()
        if most_pixels < NO_LIMIT:
            stream.codec_context.options = {"max_pixels": str(int(1.1 * most_pixels) + 2**18)}
        yield container, stream


def candidates(container: InputContainer) -> list[VideoStream]:
    """The video streams that can be decoded and are not cover art, in the order of the file.

    Raises:
        UnreadableError: There is none, or the file declares that it is encrypted.
    """
    if _ENCRYPTED_KEYS & {key.lower() for key in container.metadata}:
        raise UnreadableError(ENCRYPTED)
    streams = [s for s in container.streams.video if not s.disposition & Disposition.attached_pic]
    if not streams:
        raise UnreadableError(NO_STREAM)
    contexts: list[object] = [stream.codec_context for stream in streams]  # may be None, despite its type
    decodable = [stream for stream, context in zip(streams, contexts, strict=True) if context is not None]
    if not decodable:
        raise UnreadableError(ENCRYPTED if declares_encryption(container.name) else NO_DECODER)
    return decodable


def is_encrypted(stream: VideoStream) -> bool:
    """Whether the container declares the stream as encrypted. Its packets may declare it nevertheless."""
    return bool(_ENCRYPTED_KEYS & {key.lower() for key in stream.metadata})


@contextmanager
def checked_by(check: Check | None) -> Iterator[None]:
    """Call `check` at every packet that is read in this thread; None: nothing is called."""
    token = _CHECK.set(check)
    try:
        yield
    finally:
        _CHECK.reset(token)


@contextmanager
def decoded_by(threads: int) -> Iterator[None]:
    """Has decoders use so many threads, in this thread; 0: as many as there are cores.

    Threads that divide a stream among them need more processor time in all: a third more for H.264.
    """
    token = _THREADS.set(threads)
    try:
        yield
    finally:
        _THREADS.reset(token)


def demux(container: InputContainer, *streams: Stream) -> Iterator[Packet[Stream]]:
    """The packets of `streams`, as stored."""
    check = _CHECK.get()
    try:
        for packet in container.demux(*streams):
            if check is not None:
                check()
            yield packet
    except IndexError:  # raised by PyAV after the last packet, if a stream appears later than the header
        return
