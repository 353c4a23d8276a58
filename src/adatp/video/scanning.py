"""Lists the packets of a file without decoding them, and chooses the stream to read."""

from __future__ import annotations

import os
from array import array
from dataclasses import dataclass, field

import av
import numpy as np
from av.container import InputContainer
from av.packet import Packet
from av.stream import Disposition, Stream
from av.video.format import VideoFormat
from av.video.stream import VideoStream

from adatp.video.errors import CUT_SHORT, ENCRYPTED, UnreadableError
from adatp.video.opening import candidates, demux, is_encrypted, open_container
from adatp.video.structure import declares_encryption, is_cut_matroska, is_fragmented, is_scrambled
from adatp.video.timeline import JUMP, is_loss, shown_seconds, steady

_DECLARING = {"mov", "matroska", "avi"}  # containers that store their duration
_JOINED = {"mpegts", "mpeg"}  # files of these are joined and cut anywhere, so their clocks jump
_NO_TIME = -(1 << 63)  # FFmpeg's AV_NOPTS_VALUE
GUESSED_RATE = 25  # frames per second, FFmpeg's own guess

# PyAV 15, which lmms-eval requires, gives neither the side data of a packet nor the index of a file.
_SIDE_DATA = hasattr(Packet, "has_sidedata")


@dataclass(frozen=True)
class Packets:
    """The packets of a video stream as stored, which is the order of decoding.

    Attributes:
        stream: The stream's index in the file.
        codec: The name of its codec, as FFmpeg spells it.
        pts: int64 ticks, shape (N,).
        seeks: int64 ticks, shape (N,): times that seek to a packet or before it.
        sizes: int64 bytes, shape (N,).
        keys: Positions of the packets that the container calls keyframes, shape (K,), ascending.
        shown: Positions of frames in the order of presentation, shape (S,); empty where pts don't give it.
        jumps: Whether the stream's clock jumps.
        seconds: Approximate length of the stream.
        last: Duration of the last frame in seconds, 0 if unknown.
        tick: Seconds.
        rate: Frames per second that the container declares, 0 if it declares none.
        size: Width and height that the container declares.
    """

    stream: int
    codec: str
    pts: np.ndarray
    seeks: np.ndarray
    sizes: np.ndarray
    keys: np.ndarray
    shown: np.ndarray
    jumps: bool
    seconds: float
    last: float
    tick: float
    rate: float
    size: tuple[int, int]


@dataclass
class _Listing:
    """The packets of one stream while they are listed, and when the last one was decoded."""

    stream: VideoStream
    tick: float
    rows: array[int] = field(default_factory=lambda: array("q"))
    frames: int = 0
    encrypted: bool = False
    jumps: bool = False
    clock: float | None = None  # seconds

    def add(self, packet: Packet[Stream], latest: float | None) -> None:
        """Append `packet` to the list.

        `latest` is the decoding time of the packet stored before it, of any stream; None if unknown.
        """
        pts, dts = packet.pts, packet.dts
        times = [time for time in (pts, dts) if time is not None] or [0]
        key, hidden = packet.is_keyframe, packet.is_discard
        row = (_NO_TIME if pts is None else pts, min(times), packet.duration or 0, packet.size, key, hidden)
        self.rows.extend(row)
        self.frames += not hidden
        self.encrypted = self.encrypted or (_SIDE_DATA and packet.has_sidedata("encryption_info"))
        if dts is not None:
            clock = dts * self.tick
            back = self.clock is not None and clock < self.clock
            self.jumps = self.jumps or back or (latest is not None and clock > latest + JUMP)
            self.clock = clock

    def rank(self) -> tuple[int, bool, bool]:
        """Higher for the stream that people mean: most frames, then `default`, then colour."""
        pixels: VideoFormat | None = (
            self.stream.codec_context.format
        )  # PyAV 17 crashes on an unknown `pix_fmt`
        grey = pixels is not None and pixels.name.startswith(("gray", "mono"))
        return self.frames, bool(self.stream.disposition & Disposition.default), not grey


@dataclass
class _Streams:
    """What the packets of all streams give together."""

    ends: dict[int, float] = field(default_factory=dict)  # seconds, the end of each stream
    corrupt: bool = False  # the last packet is incomplete
    latest: float | None = None  # seconds, when the last packet of video or audio is decoded


def scan(file: str) -> Packets:
    """List the packets of the stream to read.

    It is the stream with most frames; ties go to the file's default, then to one in colour.

    Raises:
        UnreadableError: The file ends before it should, is encrypted or has no stream that can be decoded.
        av.FFmpegError: FFmpeg can't open it, or its format isn't allowed.
    """
    with open_container(file) as container:
        listings = {
            stream.index: _Listing(stream, float(stream.time_base or 0)) for stream in candidates(container)
        }
        broken, together = False, _Streams()
        try:
            _list_packets(container, listings, together)
        except av.FFmpegError:
            broken = True
        kind = set(container.format.name.split(","))
        chosen = max(listings.values(), key=_Listing.rank)
        _check_encryption(file, chosen, kind)
        if broken or not chosen.rows:
            raise UnreadableError(CUT_SHORT)
        packets, pause = _packets(chosen, kind)
        declared = (container.duration or 0) / av.time_base
        if kind & _DECLARING and (
            together.corrupt or _is_cut(file, chosen, packets, declared, together.ends, pause)
        ):
            raise UnreadableError(CUT_SHORT)
    return packets


def _list_packets(container: InputContainer, listings: dict[int, _Listing], together: _Streams) -> None:
    streams = {stream.index: stream for stream in container.streams}
    ticks = {index: float(stream.time_base or 0) for index, stream in streams.items()}
    clocks: set[int] = set()
    if container.format.name == "mpegts":  # elsewhere a long step is a pause
        clocks = {index for index, stream in streams.items() if stream.type in ("audio", "video")}
    for packet in demux(container, *container.streams):
        pts, dts, owner = packet.pts, packet.dts, packet.stream_index
        if pts is None and dts is None and not packet.size:  # the flush mark after a stream's end
            continue
        time = pts if pts is not None else dts if dts is not None else 0
        end = (time + (packet.duration or 0)) * ticks.get(owner, 0.0)
        together.ends[owner] = max(together.ends.get(owner, 0.0), end)
        together.corrupt = packet.is_corrupt
        if owner in listings:
            listings[owner].add(packet, together.latest)
        if owner in clocks and dts is not None:
            together.latest = dts * ticks[owner]


def _check_encryption(file: str, chosen: _Listing, kind: set[str]) -> None:
    stream = chosen.stream
    scrambled = "mpegts" in kind and is_scrambled(file, stream.id)
    declared = not _SIDE_DATA and "mov" in kind and declares_encryption(file)
    if chosen.encrypted or scrambled or declared or is_encrypted(stream):
        raise UnreadableError(ENCRYPTED)


def _packets(chosen: _Listing, kind: set[str]) -> tuple[Packets, float]:
    """The packets of the chosen stream, and the longest pause between two frames in seconds."""
    stream = chosen.stream
    tick, rate = chosen.tick, float(stream.average_rate or 0)
    pts, seeks, durations, sizes, keys, hidden = np.frombuffer(chosen.rows, np.int64).reshape(-1, 6).T
    # AVI stores no pts. Those that FFmpeg makes up for reordered H.264 follow the order of decoding.
    made_up = "avi" in kind and stream.codec_context.has_b_frames
    jumps = bool(kind & _JOINED) and chosen.jumps
    shown = np.flatnonzero(hidden == 0)
    if made_up or jumps or _NO_TIME in pts or len(np.unique(pts)) < len(pts):
        shown = shown[:0]
    shown = shown[np.argsort(pts[shown])]
    last = float(durations[shown[-1]]) * tick if len(shown) else 0.0
    if len(shown):
        seconds = float(pts[shown[-1]] - pts[shown[0]]) * tick + last
    elif jumps:
        seconds = float(steady(seeks, tick, rate or GUESSED_RATE)[-1]) * tick
    else:
        seconds = len(pts) / (rate or GUESSED_RATE)
    context = stream.codec_context
    packets = Packets(
        stream.index,
        context.codec.canonical_name,
        pts,
        seeks,
        sizes,
        np.flatnonzero(keys),
        shown,
        jumps,
        seconds,
        last,
        tick,
        rate,
        (context.width, context.height),
    )
    return packets, float(np.diff(pts[shown]).max(initial=0)) * tick


def _is_cut(
    file: str, chosen: _Listing, packets: Packets, declared: float, ends: dict[int, float], pause: float
) -> bool:
    """Whether the file ends too early: it declares `declared` seconds, and its streams end at `ends`."""
    name = chosen.stream.container.format.name
    index = getattr(chosen.stream, "index_entries", None)
    if "mov" in name and index is not None and not is_fragmented(file):
        # The header lists every sample. Its times can't be trusted: an edit may last longer.
        stop = max((entry.pos + entry.size for entry in index), default=0)
        return stop > os.path.getsize(file)
    if "matroska" in name and len(packets.shown) and is_cut_matroska(file):
        times = packets.pts[packets.shown] * packets.tick
        frames = times[0] + shown_seconds(times, packets.last)
        others = max((end for index, end in ends.items() if index != packets.stream), default=0.0)
        return is_loss(declared - max(frames, others), declared)
    return is_loss(declared - max(ends.values()), declared, pause)
