"""DyCoke (arXiv 2411.15024), its first stage: temporal token merging before the decoder.

As in the paper, frames are taken in windows of four, and the first frame keeps all its tokens. The second and
the third lose the tokens most similar to the same position of the first. The fourth loses those most similar
to the third's. The official code drops these tokens, as we do.

What differs: by its loop bounds, the official code leaves out the third frame of the last window and loses
the last of an odd number of frames. We treat every window the same. The second stage, which prunes the cache
anew at every decode step, does not change the prefill and is left out.
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
    """Keep the tokens that change within windows of four frames; solved: the share that is dropped.

    The first frame of each window keeps all tokens, so about a quarter of the tokens is the minimum.
    """

    name: ClassVar[str] = "dycoke"
    complete_frames: ClassVar[bool] = True

    def layer_counts(self, shape: DecoderShape, visual: int, x: int) -> Sequence[int]:
        """At least a quarter of the tokens, as if all windows had four frames."""
        return [min(visual, math.ceil(visual / WINDOW) - 1 + x)] * shape.layers

    def schedule_of(self, shape: DecoderShape, layout: VideoLayout) -> Schedule:
        """At least the tokens of the frames that lose none."""
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
        """Split the rest of the budget evenly over the frames that may lose tokens."""
        layout = prefill.layouts[sample]
        sizes = frame_sizes(layout)
        shares = split_in_proportion(
            schedule.visual[-1] - sum(always for always, _ in sizes), [rest for _, rest in sizes]
        )

        return lambda cut: least_like(layout, cut.states, shares)


def frame_sizes(layout: VideoLayout) -> list[tuple[int, int]]:
    """For each frame: the number of tokens that always stay, and the number that may be dropped."""
    return [
        (0, rows * columns) if frame % WINDOW else (rows * columns, 0)
        for frames, rows, columns in layout.grids
        for frame in range(frames)
    ]


def least_like(layout: VideoLayout, states: Tensor, shares: list[int]) -> Tensor:
    """Choose the tokens that stay: those least similar to the frame they are compared with. Ascending.

    Args:
        layout: layout of the sample.
        states: (n, d) of its visual tokens.
        shares: tokens that stay of each frame; the first frame of each window keeps all, whatever its share.
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
