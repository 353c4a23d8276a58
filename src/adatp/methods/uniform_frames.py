"""Uniform frames: fewer frames, each as it is. What a user without any method would do."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch

from adatp.budget import Schedule
from adatp.methods.base import Prefill
from adatp.methods.peer import Peer, Rule, numbered
from adatp.methods.similarity import evenly, share_out


@dataclass(frozen=True)
class UniformFrames(Peer):
    """Evenly spaced whole frames of each video, before the first layer.

    The last of them is kept in part where the budget ends within it: as many tokens of it as are left,
    evenly spaced.
    """

    name: ClassVar[str] = "uniform_frames"
    whole_frames: ClassVar[bool] = True

    def rule(self, prefill: Prefill, sample: int, schedule: Schedule) -> Rule:
        """Keep the same frames whatever they show."""
        videos = numbered(prefill.layouts[sample], torch.device("cpu"))
        parts = []
        for video, share in zip(
            videos, share_out(schedule.visual[-1], [video.numel() for video in videos]), strict=True
        ):
            whole, rest = divmod(share, video.shape[1])
            frames = video[evenly(whole + (rest > 0), len(video))]
            parts += [frames[:whole].flatten(), frames[whole:, evenly(rest, video.shape[1])].flatten()]
        kept = torch.cat(parts)
        return lambda layer, token, scores, hidden: (kept, None)
