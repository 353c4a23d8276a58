"""V-CAST (its official code): frames at which the video turns keep more, and each keeps what stands out.

As in the official code for Qwen3-VL: a frame is the normalised mean of its tokens. Its curvature is one minus
the cosine between the step that leads to it and the step away from it, and 1 at both ends. Every frame gets
one token first. Shares then follow a softmax of the curvature. Within a frame, a token scores one minus its
cosine with the frame plus its norm, both scaled to [0, 1]. The highest scores stay.

What differs: we support every family, not only Qwen3-VL. What a full frame can't hold goes to the others in
proportion; the official code hands it out one by one. Videos of one frame are pruned as well. Several videos
of a prompt share the budget in proportion to their tokens.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from adatp.budget import Schedule
from adatp.errors import SettingError
from adatp.methods.base import Method
from adatp.methods.grouping import numbers_by_frame
from adatp.methods.selection import allocate, split_in_proportion, top
from adatp.methods.token_plan import Rule
from adatp.prefill import Prefill


@dataclass(frozen=True)
class VCast(Method):
    """Tokens unlike their frame, more of frames at which the video turns; solved: tokens.

    Attributes:
        temperature: of the softmax over frames. The lower it is, the more goes to frames where the video
            turns.
    """

    name: ClassVar[str] = "vcast"
    tunable: ClassVar[Mapping[str, Sequence[Any]]] = {"temperature": (0.2, 0.7, 2.0)}

    temperature: float = 0.7

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.temperature > 0:
            raise SettingError(f"temperature is above 0, not {self.temperature}")

    def rule(self, prefill: Prefill, sample: int, schedule: Schedule) -> Rule:
        """Split the budget over videos, then over frames, then choose."""
        layout = prefill.layouts[sample]
        videos = numbers_by_frame(layout, layout.index.device)
        shares = split_in_proportion(schedule.visual[-1], [sum(map(len, video)) for video in videos])

        def choose_all(states: Tensor) -> Tensor:
            parts: list[Tensor] = []
            for video, share in zip(videos, shares, strict=True):
                frames = [states[frame.to(states.device)] for frame in video]
                counts = self.frame_shares(frames, share)
                for numbers, frame, count in zip(video, frames, counts, strict=True):
                    if count:
                        parts.append(numbers.to(states.device)[top(standing_out(frame), count)])
            return torch.cat(parts)

        # What is not a number says nothing.
        return lambda cut: choose_all(cut.states.float().nan_to_num(0.0, 0.0, 0.0))

    def frame_shares(self, frames: Sequence[Tensor], keep: int) -> list[int]:
        """Number of tokens to keep of each frame of a video.

        Args:
            frames: (n, d) tokens of each.
            keep: total number of tokens that stay.
        """
        means = torch.stack([frame.sum(0) / max(1, len(frame)) for frame in frames])
        weights = (curvature(means) / self.temperature).softmax(0).cpu()
        there = torch.tensor(list(map(len, frames)))
        first = there.clamp(max=1) if keep >= int(there.clamp(max=1).sum()) else torch.zeros_like(there)
        rest = allocate(torch.ones_like(there), weights, keep - int(first.sum()), 0, there - first)
        return [int(count) for count in (first + rest).tolist()]


def curvature(means: Tensor) -> Tensor:
    """(T,) in [0, 2]: how sharply a video turns at each frame, from the means (T, d) of frames' tokens."""
    units = F.normalize(means, dim=-1)
    turns = units.new_ones(len(units))
    if len(units) > 2:
        steps = units[1:] - units[:-1]
        turns[1:-1] = 1 - F.cosine_similarity(steps[:-1], steps[1:], dim=-1, eps=1e-6)
    return turns


def standing_out(tokens: Tensor) -> Tensor:
    """(n,) score of each of a frame's tokens (n, d): distance from the frame's mean, plus length."""
    mean = F.normalize(tokens.mean(0, keepdim=True), dim=-1)
    norm = tokens.norm(dim=-1)
    norm = (norm - norm.min()) / (norm.max() - norm.min() + 1e-6)
    outlying: Tensor = 1 - F.cosine_similarity(tokens, mean, dim=-1, eps=1e-6)
    scaled: Tensor = outlying + norm
    return scaled
