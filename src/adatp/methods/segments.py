"""Groups the frames of a prompt into segments."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from adatp.adatp_steps.segment import segment_frames
from adatp.prefill import Prefill

Features = Literal["mean", "head", "auto"]
"""What frames are compared by: the mean of the tower's features, or the pooled output of the tower's head."""


def segments_of(prefill: Prefill, sample: int, tau_s: float, features: Features = "mean") -> Tensor:
    """(frames,) int64 segment of each frame of a sample, on the CPU; no segment spans two videos.

    Args:
        prefill: the prefill of the prompts.
        sample: number of the prompt.
        tau_s: see `adatp.adatp_steps.segment.segment_frames`.
        features: what frames are compared by; "auto" and "head": the head's output where the prefill has it.
    """
    pooled = None if features == "mean" else prefill.frame_embeddings(sample)
    frames = prefill.frame_features(sample) if pooled is None else pooled
    first, parts = 0, []
    for video in torch.split(frames, [grid[0] for grid in prefill.layouts[sample].grids]):
        parts.append(segment_frames(video, tau_s).cpu() + first)
        first = int(parts[-1][-1]) + 1
    return torch.cat(parts)
