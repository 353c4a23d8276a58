"""Clips of the embedded model's world as files, and rows that ask about them, for benchmarks of runs."""

from __future__ import annotations

import json
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np

from adatp.tiny.world import ask, benchmark, make_clip

BROKEN = ("corrupt", "empty", "missing")


def write_clip(path: Path, frames: np.ndarray, *, scale: int = 1, repeat: int = 1, fps: int = 24) -> None:
    """Write frames (F, H, W, 3) as H.264, each `repeat` times, `scale` times as high and wide."""
    frames = frames.repeat(scale, axis=1).repeat(scale, axis=2)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=fps, options={"preset": "veryfast", "crf": "18"})
        stream.height, stream.width = frames.shape[1:3]
        stream.pix_fmt, stream.time_base = "yuv420p", Fraction(1, fps)
        for frame in frames:
            for _ in range(repeat):
                container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode(None))


def write_clips(folder: Path, count: int, frames: int = 16, **how: int) -> list[list[str]]:
    """Write clips `0000.mp4`, ... and return the questions of each, those of the world's test split."""
    folder.mkdir(parents=True, exist_ok=True)
    questions = []
    for number, (seed, question) in enumerate(benchmark("test", frames, count)):
        clip = make_clip(seed, frames, "test")
        write_clip(folder / f"{number:04d}.mp4", clip.frames, **how)
        more = ask(clip, number, 3)
        questions.append(list(dict.fromkeys([question.text, *(each.text for each in more)])))
    return questions


def break_some(folder: Path) -> list[str]:
    """Write a corrupt and an empty video; returns their names and that of a missing one."""
    data = (folder / "0000.mp4").read_bytes()
    (folder / "corrupt.mp4").write_bytes(data[: len(data) // 2])
    (folder / "empty.mp4").write_bytes(b"")
    return [f"{name}.mp4" for name in BROKEN]


def write_rows(path: Path, rows: list[dict[str, Any]]) -> Path:
    """Write rows as JSON, one a line."""
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path
