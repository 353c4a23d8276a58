"""Uniform grid: every frame at a lower resolution."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from adatp.budget import Schedule
from adatp.methods.base import Prefill
from adatp.methods.peer import Peer, Rule, numbered
from adatp.methods.similarity import evenly, share_out


@dataclass(frozen=True)
class UniformGrid(Peer):
    """Evenly spaced tokens of every frame, as many of each, before the first layer."""

    name: ClassVar[str] = "uniform_grid"
    whole_frames: ClassVar[bool] = True

    def rule(self, prefill: Prefill, sample: int, schedule: Schedule) -> Rule:
        """Keep the same positions whatever they show."""
        layout = prefill.layouts[sample]
        frames = [
            (frame, grid)
            for video, grid in zip(numbered(layout, torch.device("cpu")), layout.grids, strict=True)
            for frame in video
        ]
        shares = share_out(schedule.visual[-1], [len(frame) for frame, _ in frames])
        kept = torch.cat(
            [
                frame[grid_points(share, rows, columns)]
                for (frame, (_, rows, columns)), share in zip(frames, shares, strict=True)
            ]
        )
        return lambda layer, token, scores, hidden: (kept, None)


def grid_points(count: int, rows: int, columns: int) -> Tensor:
    """(count,) int64 ascending: cells of a grid, spread over evenly spaced rows, evenly spaced in each."""
    used = max(math.ceil(count / columns), min(rows, round(math.sqrt(count * rows / columns))), 1)
    return torch.cat(
        [
            row * columns + evenly(share, columns)
            for row, share in zip(evenly(used, rows), share_out(count, [columns] * used), strict=True)
        ]
    )
