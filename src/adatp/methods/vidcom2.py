"""VidCom2 (arXiv 2505.14454): frames that stand out keep more, and each keeps the tokens that stand out.

As in the official code: only the half of the channels that vary least is used. Each token is compared with
the mean of the video and with the mean of its frame, by a sum of Gaussians of five widths. A frame's share
grows with its mean distance from the video, by a softmax. A frame keeps the tokens least similar to both
means.

What differs: shares are scaled and rounded so that the budget is spent to the last token, with at least one
per frame as far as it lasts. Several videos of a prompt share the budget in proportion to their tokens.
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

WIDTHS = (1 / 8, 1 / 4, 1 / 2, 1, 2)
"""Widths of the Gaussians, the official alphas."""


@dataclass(frozen=True)
class VidCom2(Method):
    """Tokens unlike their video and frame, more of frames unlike the video; solved: tokens.

    Attributes:
        temperature: of the softmax over frames. The lower it is, the more goes to the frames that stand out
            most.
        channels: share of the channels, those of least variance, that tokens are compared by.
    """

    name: ClassVar[str] = "vidcom2"
    tunable: ClassVar[Mapping[str, Sequence[Any]]] = {"temperature": (0.003, 0.01, 0.03, 0.1, 1.0)}

    temperature: float = 0.01
    channels: float = 0.5

    def __post_init__(self) -> None:
        super().__post_init__()
        if not (self.temperature > 0 and 0 < self.channels <= 1):
            raise SettingError("temperature is above 0, channels a share, in (0, 1]")

    def rule(self, prefill: Prefill, sample: int, schedule: Schedule) -> Rule:
        """Split the budget over videos, then over frames, then choose."""
        layout = prefill.layouts[sample]
        videos = numbers_by_frame(layout, layout.index.device)
        shares = split_in_proportion(schedule.visual[-1], [sum(map(len, video)) for video in videos])

        def choose_all(states: Tensor) -> Tensor:
            parts = [
                self.choose_video([frame.to(states.device) for frame in video], states, share)
                for video, share in zip(videos, shares, strict=True)
            ]
            return torch.cat(parts)

        # What is not a number says nothing.
        return lambda cut: choose_all(cut.states.float().nan_to_num(0.0, 0.0, 0.0))

    def choose_video(self, frames: Sequence[Tensor], states: Tensor, keep: int) -> Tensor:
        """Choose the tokens of a video that stay, ascending.

        Args:
            frames: token numbers of each frame.
            states: (n, d) of all tokens of the prompt.
            keep: number of tokens that stay.
        """
        tokens = torch.cat(list(frames))
        least = states[tokens].var(0, correction=0).argsort(stable=True)
        units = F.normalize(states[:, least[: max(1, int(len(least) * self.channels))]], dim=-1)
        of_video = likeness(units[tokens], units[tokens].mean(0))
        by_frame = torch.split(of_video, list(map(len, frames)))
        stands_out = torch.stack([-part.mean() if len(part) else part.new_zeros(()) for part in by_frame])
        there = torch.tensor(list(map(len, frames)))
        share = ((stands_out - stands_out.max()) / self.temperature).softmax(0).cpu()
        shares = allocate(there, 1 + share - share.mean(), keep)
        kept = [
            frame[top(-(part + likeness(units[frame], units[frame].mean(0))), count)]
            for frame, part, count in zip(frames, by_frame, shares.tolist(), strict=True)
            if count
        ]
        return torch.cat(kept) if kept else tokens[:0]


def likeness(tokens: Tensor, centre: Tensor) -> Tensor:
    """(n,) similarity of tokens (n, d) to a centre (d,): the sum of Gaussians of their distance."""
    distance = (tokens - centre).square().sum(-1)
    return torch.stack([(-distance / (2 * width)).exp() for width in WIDTHS]).sum(0)
