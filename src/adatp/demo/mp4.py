"""Writes frames as an MP4 file that browsers play."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from numpy.typing import NDArray


def write_mp4(path: Path, frames: NDArray[np.uint8], *, scale: int = 2, fps: int = 2) -> None:
    """Write frames as an H.264 file.

    Args:
        path: the file; replaced if it exists.
        frames: (F, H, W, 3) uint8, RGB.
        scale: pixels of the file, in height and in width, for each pixel of a frame.
        fps: frames per second.
    """
    frames = frames.repeat(scale, axis=1).repeat(scale, axis=2)
    with av.open(str(path), "w", options={"movflags": "faststart"}) as container:
        stream = container.add_stream("libx264", rate=fps, options={"crf": "16", "preset": "veryslow"})
        stream.height, stream.width = frames.shape[1:3]
        stream.pix_fmt = "yuv420p"
        stream.time_base = Fraction(1, fps)
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode(None))
