"""Writes small test clips whose every frame spells its own index, so that a test can tell frames apart."""

from __future__ import annotations

from contextlib import suppress
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from av.stream import Disposition
from av.video.reformatter import VideoReformatter

FPS = 24
FRAMES = 48  # of a clip, unless said otherwise
CELLS = 4  # an index is CELLS x CELLS black or white cells, the lowest bit at the top left: up to 65,536


def image_of(index: int, width: int = 64, height: int = 48) -> np.ndarray:
    """The (height, width, 3) uint8 image that spells `index`."""
    row = np.arange(height)[:, None] * CELLS // height
    column = np.arange(width)[None, :] * CELLS // width
    white = (index >> (row * CELLS + column)) & 1
    return np.repeat((white * 200 + 28).astype(np.uint8)[..., None], 3, axis=2)


def index_of(image: np.ndarray) -> int:
    """The index that a decoded (height, width, 3) image spells."""
    rows, columns = (((np.arange(CELLS) + 0.5) * size / CELLS).astype(int) for size in image.shape[:2])
    white = (image[np.ix_(rows, columns)].mean(axis=2) > 128).ravel()
    return int(white @ (1 << np.arange(white.size)))


LATE = [i + 4 * (i // 5) for i in range(FRAMES)]  # a pause after every fifth frame


def hevc(parameters: str) -> dict[str, str]:
    """Options of the HEVC encoder, which is to be quiet and alone."""
    quiet = "log-level=none:pools=1:frame-threads=1"
    return {"preset": "ultrafast", "x265-params": f"{parameters}:{quiet}"}


OPEN_GOP = {"x264-params": "open-gop=1:bframes=3:b-pyramid=normal:keyint=12:scenecut=0"}
CLIPS = {
    "plain.mp4": {},
    "sound.mp4": {"audio": True},
    "cover.mp4": {"cover": True},
    "start.mp4": {"muxing": {"movflags": "faststart"}},
    "fragments.mp4": {"muxing": {"movflags": "frag_keyframe+empty_moov"}},
    "open-gop.mp4": {"options": OPEN_GOP},
    "one-gop.mp4": {"gop": 1000},
    "intra.mp4": {"gop": 1},
    "late.mp4": {"pts": LATE},
    "plain.mov": {},
    "plain.mkv": {},
    "sound.mkv": {"audio": True},
    "open-gop.mkv": {"options": OPEN_GOP},
    "late.mkv": {"pts": LATE},
    "live.mkv": {"muxing": {"live": "1"}},  # no duration, no index
    "odd.mkv": {"size": (127, 93), "pix_fmt": "yuv444p"},
    "vp9.webm": {"codec": "libvpx-vp9", "size": (127, 93), "options": {"cpu-used": "8"}},
    "vp8.webm": {"codec": "libvpx", "options": {"auto-alt-ref": "1", "lag-in-frames": "16"}},
    "mpeg4.avi": {"codec": "mpeg4"},
    "b-frames.avi": {"codec": "mpeg4", "options": {"bf": "2"}},
    "h264.avi": {},  # reordered frames in a container that cannot say so
    "plain.ts": {},
    "plain.flv": {},
    "plain.gif": {"codec": "gif", "pix_fmt": "rgb8"},
    "bare.h264": {},  # no times at all
    "hevc.mp4": {"codec": "libx265", "options": hevc("keyint=12:bframes=3")},
    "open-gop-hevc.ts": {"codec": "libx265", "options": hevc("keyint=12:bframes=3:open-gop=1")},
    "leading.mkv": {"codec": "libx265", "options": hevc("keyint=12:min-keyint=12:radl=2:scenecut=0")},
    "av1.mkv": {"codec": "libsvtav1", "size": (64, 64), "options": {"preset": "12"}},
    "refs.mkv": {"options": {"x264-params": "ref=4:bframes=3"}},
    "open-gop.ts": {"options": OPEN_GOP},
    "pieces.mp4": {"muxing": {"movflags": "frag_every_frame+empty_moov"}},
    "dash.mp4": {"audio": True, "muxing": {"movflags": "dash+frag_keyframe"}},
    "no-edits.mp4": {"muxing": {"use_editlist": "0"}},
    "negative.mp4": {"muxing": {"movflags": "negative_cts_offsets"}},
    "late.ts": {"pts": LATE},
    "late.flv": {"pts": LATE},
    "late.nut": {"pts": LATE},
    "clusters.mkv": {"muxing": {"cluster_time_limit": "100"}},
    "cues-first.mkv": {"muxing": {"cues_to_front": "1", "reserve_index_space": "1000"}},
    "b-frames.mp4": {"codec": "mpeg4", "options": {"bf": "2"}},
    "b-frames.nut": {"codec": "mpeg2video", "options": {"bf": "2"}},
    "mpeg2.ts": {"codec": "mpeg2video", "options": {"bf": "2"}},
    "mpeg2.mkv": {"codec": "mpeg2video", "options": {"bf": "2"}},
    "mpeg2.mxf": {"codec": "mpeg2video"},
    "mpeg1.mpg": {"codec": "mpeg1video", "options": {"bf": "2"}},
    "mpeg2.vob": {"codec": "mpeg2video"},
    "mjpeg.avi": {"codec": "mjpeg", "pix_fmt": "yuvj420p"},
    "wmv.asf": {"codec": "wmv2"},
    "flv1.flv": {"codec": "flv"},
    "h263.3gp": {"codec": "h263", "size": (128, 96)},
    "ffv1.mkv": {"codec": "ffv1"},
    "prores.mov": {"codec": "prores", "pix_fmt": "yuv422p10le"},
    "qtrle.mov": {"codec": "qtrle", "pix_fmt": "rgb24"},
    "vp8.ivf": {"codec": "libvpx", "options": {"auto-alt-ref": "1", "lag-in-frames": "16"}},
    "plain.apng": {"codec": "apng", "pix_fmt": "rgb24"},
}
# Reordered frames in a container that has no times for them, a program stream whose packets are others after
# a seek, and a codec that does not say which of its frames are key frames.
UNSURE = ["b-frames.avi", "h264.avi", "bare.h264", "mpeg1.mpg", "mpeg2.vob", "qtrle.mov"]
COMPLETE = [name for name in CLIPS if name not in UNSURE]


def decoded(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """All frames that decode and their seconds from the first, by decoding everything in one go."""
    frames: list[av.VideoFrame] = []
    with av.open(str(path)) as container:
        stream = next(s for s in container.streams.video if s.width != 200)
        tick = float(stream.time_base)
        for packet in container.demux(stream):
            with suppress(av.InvalidDataError):
                frames += packet.decode()
    images = np.stack([frame.to_ndarray(format="rgb24") for frame in frames])
    if frames[0].pts is None:  # FFmpeg guesses 25 frames per second
        return images, np.arange(len(frames)) / 25
    ticks = np.sort([frame.pts for frame in frames])
    return images, (ticks - ticks[0]) * tick


def picked(total: int, frames: int) -> list[int]:
    """The positions that `read_video` is to pick."""
    return np.linspace(0, total - 1, min(total, frames)).astype(int).tolist()


def indexes(images: np.ndarray) -> list[int]:
    """The index that each of the images spells."""
    return [index_of(image) for image in images]


def cut(path: Path, keep: float) -> bytes:
    """The first `keep` of the bytes of a file."""
    data = path.read_bytes()
    return data[: int(keep * len(data))]


def write_clip(
    path: Path,
    frames: int = 48,
    *,
    size: tuple[int, int] = (64, 48),
    codec: str = "libx264",
    pix_fmt: str = "yuv420p",
    gop: int = 12,
    pts: list[int] | None = None,
    audio: bool = False,
    cover: bool = False,
    options: dict[str, str] | None = None,
    muxing: dict[str, str] | None = None,
) -> Path:
    """Writes a clip at 24 frames per second, or with the frames at `pts` (1/24 s), and returns `path`."""
    width, height = size
    with av.open(str(path), "w", container_options=muxing or {}) as container:
        video = container.add_stream(codec, rate=FPS, options=options or {})
        video.width, video.height, video.pix_fmt, video.gop_size = width, height, pix_fmt, gop
        video.codec_context.time_base = Fraction(1, FPS)
        sound = container.add_stream("aac", rate=8000) if audio else None
        if cover:
            _add_cover(container)
        reformatter = VideoReformatter()
        for index in range(frames):
            frame = reformatter.reformat(
                av.VideoFrame.from_ndarray(image_of(index, width, height)), format=pix_fmt
            )
            frame.pts, frame.time_base = pts[index] if pts else index, Fraction(1, FPS)
            container.mux(video.encode(frame))
        container.mux(video.encode())
        if sound:
            for start in range(0, frames * 8000 // FPS, 1024):
                silence = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), "fltp", "mono")
                silence.sample_rate, silence.pts, silence.time_base = 8000, start, Fraction(1, 8000)
                container.mux(sound.encode(silence))
            container.mux(sound.encode())
    return path


def flat_clip(path: Path, frames: int, size: tuple[int, int]) -> Path:
    """Writes a clip of one colour, which is quick at any size, and returns `path`."""
    with av.open(str(path), "w") as container:
        video = container.add_stream("libx264", rate=FPS, options={"preset": "ultrafast"})
        video.width, video.height, video.pix_fmt = *size, "yuv420p"
        frame = av.VideoFrame(*size, "yuv420p")
        for plane in frame.planes:
            plane.update(bytes([90]) * plane.buffer_size)
        for index in range(frames):
            frame.pts, frame.time_base = index, Fraction(1, FPS)
            container.mux(video.encode(frame))
        container.mux(video.encode())
    return path


def write_sound(path: Path, *, cover: bool = False) -> Path:
    """Writes a second of silence with no video stream, with `cover` art or without."""
    codec, kind, sample = (
        ("pcm_s16le", np.int16, "s16") if path.suffix == ".wav" else ("aac", np.float32, "fltp")
    )
    with av.open(str(path), "w") as container:
        sound = container.add_stream(codec, rate=8000)
        if cover:
            _add_cover(container)
        for start in range(0, 8192, 1024):
            silence = av.AudioFrame.from_ndarray(np.zeros((1, 1024), kind), sample, "mono")
            silence.sample_rate, silence.pts, silence.time_base = 8000, start, Fraction(1, 8000)
            container.mux(sound.encode(silence))
        container.mux(sound.encode())
    return path


def _add_cover(container: av.container.OutputContainer) -> None:
    art = container.add_stream("png", rate=1)
    art.width, art.height, art.pix_fmt = 200, 200, "rgb24"
    art.disposition = Disposition.attached_pic.value
    container.start_encoding()
    container.mux(art.encode(av.VideoFrame.from_ndarray(np.zeros((200, 200, 3), np.uint8))))
