"""The time of each frame of a video, and its form for the processors of transformers."""

from __future__ import annotations

import warnings
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from adatp.session.errors import PromptError
from adatp.video import Video


def times_of(video: Video) -> NDArray[np.float64]:
    """(F,) seconds, ascending: the time of each frame.

    Raises:
        PromptError: the video has no frame, or not one time for each.
    """
    frames, times = len(video.frames), np.asarray(video.timestamps, dtype=float)
    if not frames:
        raise PromptError("a video without a frame can't be shown")
    if times.shape != (frames,) or not np.isfinite(times).all() or (np.diff(times) < 0).any():
        raise PromptError(f"a video of {frames} frames has as many timestamps: seconds, ascending")
    return times


def of_frames(video: Video, fewest: int) -> Video:
    """A video with at least ``fewest`` frames. A shorter one repeats its last frame, with a warning.

    Raises:
        PromptError: as `times_of`.
    """
    times, frames = times_of(video), len(video.frames)
    if frames >= fewest:
        return video
    warnings.warn(
        f"this model takes videos of {fewest} frames or more, and this one has {frames}: "
        "the last is shown again",
        stacklevel=2,
    )
    every = [*range(frames), *[frames - 1] * (fewest - frames)]
    return replace(video, frames=video.frames[every], timestamps=times[every])


def metadata(video: Video) -> dict[str, Any]:
    """The ``video_metadata`` of a processor for frames that are sampled already.

    A processor divides the number of each frame by the frame rate to get its time. At one frame per second,
    the number is the time itself. So frames may have uneven distances.
    """
    times = times_of(video)
    return {
        "total_num_frames": len(times) * seconds_a_frame(video),  # the mean rate is derived from it
        "frames_indices": times.tolist(),
        "fps": 1.0,
        "duration": video.duration,
    }


def seconds_a_frame(video: Video) -> float:
    """Mean distance of neighbouring frames in seconds. For a single frame, how long it is shown."""
    times = times_of(video)
    span = float(times[-1] - times[0])
    return span / (len(times) - 1) if span else video.duration / len(times) or 1.0
