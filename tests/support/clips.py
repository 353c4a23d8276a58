"""Writes small test clips whose every frame spells its own index, so that a test can tell frames apart."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from av.stream import Disposition
from av.video.reformatter import VideoReformatter

FPS = 24
CELLS = 4  # an index is CELLS x CELLS black or white cells, the lowest bit at the top left: up to 65,536


def picture(index: int, width: int = 64, height: int = 48) -> np.ndarray:
    """The (height, width, 3) uint8 picture that spells `index`."""
    row = np.arange(height)[:, None] * CELLS // height
    column = np.arange(width)[None, :] * CELLS // width
    white = (index >> (row * CELLS + column)) & 1
    return np.repeat((white * 200 + 28).astype(np.uint8)[..., None], 3, axis=2)


def index_of(image: np.ndarray) -> int:
    """The index that a decoded (height, width, 3) picture spells."""
    rows, columns = (((np.arange(CELLS) + 0.5) * size / CELLS).astype(int) for size in image.shape[:2])
    white = (image[np.ix_(rows, columns)].mean(axis=2) > 128).ravel()
    return int(white @ (1 << np.arange(white.size)))


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
                av.VideoFrame.from_ndarray(picture(index, width, height)), format=pix_fmt
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
