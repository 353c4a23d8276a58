"""Uniform frames: fewer frames, each complete. What a user without any method would do."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch

from adatp.budget import Schedule
from adatp.methods.base import Method
from adatp.methods.grouping import numbers_by_video
from adatp.methods.selection import evenly_spaced, split_in_proportion
from adatp.methods.token_plan import Rule
from adatp.prefill import Prefill


@dataclass(frozen=True)
class UniformFrames(Method):
    """Evenly spaced complete frames of each video, before the first layer.

    If the budget ends within the last of them, that frame keeps as many evenly spaced tokens as are left.
    """

    name: ClassVar[str] = "uniform_frames"
    complete_frames: ClassVar[bool] = True

    def rule(self, prefill: Prefill, sample: int, schedule: Schedule) -> Rule:
        """Keep the same frames regardless of their content."""
        videos = numbers_by_video(prefill.layouts[sample], torch.device("cpu"))
        parts = []
        for video, share in zip(
            videos, split_in_proportion(schedule.visual[-1], [video.numel() for video in videos]), strict=True
        ):
            full, rest = divmod(share, video.shape[1])
            frames = video[evenly_spaced(full + (rest > 0), len(video))]
            parts += [
                frames[:full].flatten(),
                frames[full:, evenly_spaced(rest, video.shape[1])].flatten(),
            ]
        kept = torch.cat(parts)
        return lambda cut: kept
