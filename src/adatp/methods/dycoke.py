"""DyCoke (arXiv 2411.15024), its first stage: temporal token merging before the decoder.

As in the paper: in windows of four frames the first stays whole; of the second and the third those tokens go
that are most like the same position's of the first, of the fourth those most like the third's. The official
code drops them, as we do. What differs: it leaves the third frame of the last window, and loses the last of
an odd number of frames, by its loops' bounds; we treat every window the same. Its second stage, a cache
pruned anew at every decode step, does not change the prefill and is left out.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from adatp.budget import Schedule, fit
from adatp.flops import DecoderShape
from adatp.layout import VideoLayout
from adatp.methods.base import Method
from adatp.methods.grouping import numbers_by_video, split_by_video
from adatp.methods.selection import split_in_proportion, top
from adatp.methods.token_plan import Rule
from adatp.prefill import Prefill

WINDOW = 4


@dataclass(frozen=True)
class DyCoke(Method):
    """Keep the tokens that change within windows of four frames; solved: the share that goes.

    The first frame of each window stays whole, so about a quarter of the tokens is the least.
    """

    name: ClassVar[str] = "dycoke"
    whole_frames: ClassVar[bool] = True

    def layer_counts(self, shape: DecoderShape, visual: int, x: int) -> Sequence[int]:
        """From a quarter of the tokens on, as if frames came in whole windows."""
        return [min(visual, math.ceil(visual / WINDOW) - 1 + x)] * shape.layers

    def schedule_of(self, shape: DecoderShape, layout: VideoLayout) -> Schedule:
        """From the tokens of the frames that stay whole on."""
        assert self.flops is not None
        counts, least = layout.counts, sum(stay for stay, _ in frame_sizes(layout))
        return fit(
            shape,
            counts,
            target=self.flops,
            layer_counts=lambda x: [least - 1 + x] * shape.layers,
            most=counts.visual - least + 1,
        )

    def rule(self, prefill: Prefill, sample: int, schedule: Schedule) -> Rule:
        """Split what the whole frames leave evenly over the others."""
        layout = prefill.layouts[sample]
        sizes = frame_sizes(layout)
        shares = split_in_proportion(
            schedule.visual[-1] - sum(whole for whole, _ in sizes), [rest for _, rest in sizes]
        )

        return lambda cut: least_like(layout, cut.states, shares)


def frame_sizes(layout: VideoLayout) -> list[tuple[int, int]]:
    """Of each frame the tokens that stay in any case, and those that may go."""
    return [
        (0, rows * columns) if frame % WINDOW else (rows * columns, 0)
        for frames, rows, columns in layout.grids
        for frame in range(frames)
    ]


def least_like(layout: VideoLayout, states: Tensor, shares: list[int]) -> Tensor:
    """The tokens that stay, ascending.

    Args:
        layout: of the sample.
        states: (n, d) of its visual tokens.
        shares: how many tokens of each frame stay; whatever it says, the first of each window stays whole.
    """
    parts, share = [], iter(shares)
    for numbers, video in zip(
        numbers_by_video(layout, states.device), split_by_video(layout, states.float()), strict=True
    ):
        for frame, tokens in enumerate(numbers):
            keep, place = next(share), frame % WINDOW
            if place:
                like = F.cosine_similarity(video[frame], video[frame - (2 if place == 2 else 1)], dim=-1)
                tokens = tokens[top(-like, keep)]
            parts.append(tokens)
    return torch.cat(parts)
