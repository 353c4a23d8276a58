"""Time to read 32 frames of a 60 s 720p H.264 clip (GOP 30): `read_video` against torchcodec.

    python benchmarks/video.py [--clip FILE] [--frames 32] [--repeats 9] [--json FILE]

The readers are interleaved and their medians compared. torchcodec (an optional extra) opens the file and
fetches the same frames on each repeat, in its exact mode (the default) and its approximate mode, with its
default of one thread and with one thread a core. Without it, or without the FFmpeg libraries that it needs,
only `read_video` is timed.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import av
import numpy as np

from adatp.video import read_video


def write_clip(path: Path, seconds: int = 60, fps: int = 30, gop: int = 30) -> None:
    """A camera that pans over a textured scene, 720p, about 2 Mbit/s."""
    width, height, rng = 1280, 720, np.random.default_rng(0)
    y, x = np.mgrid[: 2 * height, : 2 * width]
    waves = [np.sin(x / 37) + np.cos(y / 23), np.sin(x / 61 + y / 40), np.cos(x / 17 - y / 91)]
    scene = 128 + 55 * np.stack(waves, axis=-1) + rng.normal(0, 6, (2 * height, 2 * width, 3))
    scene = scene.clip(0, 255).astype(np.uint8)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=fps, options={"preset": "veryfast"})
        stream.width, stream.height, stream.pix_fmt, stream.gop_size = width, height, "yuv420p", gop
        for i in range(seconds * fps):
            top, left = 3 * i % height, 5 * i % width
            view = np.ascontiguousarray(scene[top : top + height, left : left + width])
            container.mux(stream.encode(av.VideoFrame.from_ndarray(view)))
        container.mux(stream.encode())


def torchcodec_readers(frames: int) -> dict[str, Callable[[Path], np.ndarray]]:
    """A reader for each mode and thread count; empty where torchcodec cannot be used, which is printed."""
    try:
        from torchcodec.decoders import VideoDecoder
    except (ImportError, OSError, RuntimeError) as error:
        print("torchcodec is missing or does not load (it needs FFmpeg's libraries): timing read_video alone")
        print(f"  {str(error).splitlines()[0]}")
        return {}

    def reader(mode: str, threads: int) -> Callable[[Path], np.ndarray]:
        def read(clip: Path) -> np.ndarray:
            decoder = VideoDecoder(
                str(clip), seek_mode=mode, num_ffmpeg_threads=threads, dimension_order="NHWC"
            )
            total = len(decoder)
            picks = np.linspace(0, total - 1, min(total, frames)).astype(int)
            return decoder.get_frames_at(picks.tolist()).data.numpy()

        return read

    return {
        f"torchcodec {mode}, {'1 thread' if threads else 'auto threads'}": reader(mode, threads)
        for mode in ("exact", "approximate")
        for threads in (1, 0)
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--clip", type=Path, help="a video of yours instead of the synthetic clip")
    parser.add_argument("--frames", type=int, default=32)
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--json", type=Path, help="where to write the results")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        clip = arguments.clip or Path(folder) / "clip.mp4"
        if not arguments.clip:
            write_clip(clip)
        readers = {"read_video": lambda path: read_video(path, arguments.frames).frames}
        readers |= torchcodec_readers(arguments.frames)
        images = {name: read(clip) for name, read in readers.items()}  # warm up
        times: dict[str, list[float]] = {name: [] for name in readers}
        for _ in range(arguments.repeats):
            for name, read in readers.items():
                start = time.perf_counter()
                read(clip)
                times[name].append(time.perf_counter() - start)
    ours = images["read_video"].astype(int)
    rows = [
        {
            "reader": name,
            "median_ms": 1e3 * statistics.median(seconds),
            "min_ms": 1e3 * min(seconds),
            "read_video_over_this": statistics.median(times["read_video"]) / statistics.median(seconds),
            "largest_pixel_difference": int(np.abs(ours - images[name]).max()),
        }
        for name, seconds in times.items()
    ]
    print(f"{'reader':38} {'median':>10} {'min':>10} {'read_video / this':>18} {'pixel difference':>17}")
    for row in rows:
        print(
            f"{row['reader']:38} {row['median_ms']:7.0f} ms {row['min_ms']:7.0f} ms "
            f"{row['read_video_over_this']:18.2f} {row['largest_pixel_difference']:17}"
        )
    if arguments.json:
        setting = {
            "clip": str(arguments.clip or "synthetic 60 s, 1280x720, 30 fps, H.264, GOP 30"),
            "frames": arguments.frames,
            "repeats": arguments.repeats,
            "cores": os.cpu_count(),
            "pyav": av.__version__,
        }
        arguments.json.write_text(json.dumps({**setting, "rows": rows}, indent=2) + "\n")


if __name__ == "__main__":
    main()
