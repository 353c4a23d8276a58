"""Uniform grid: every frame at a lower resolution."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from adatp.budget import Schedule
from adatp.methods.base import Method
from adatp.methods.grouping import numbers_by_video
from adatp.methods.selection import evenly_spaced, split_in_proportion
from adatp.methods.token_plan import Rule
from adatp.prefill import Prefill


@dataclass(frozen=True)
class UniformGrid(Method):
    """Evenly spaced tokens of every frame, the same number of each, before the first layer."""

    name: ClassVar[str] = "uniform_grid"
    complete_frames: ClassVar[bool] = True

    def rule(self, prefill: Prefill, sample: int, schedule: Schedule) -> Rule:
        """Keep the same positions regardless of their content."""
        layout = prefill.layouts[sample]
        frames = [
            (frame, grid)
            for video, grid in zip(numbers_by_video(layout, torch.device("cpu")), layout.grids, strict=True)
            for frame in video
        ]
        shares = split_in_proportion(schedule.visual[-1], [len(frame) for frame, _ in frames])
        kept = torch.cat(
            [
                frame[grid_points(share, rows, columns)]
                for (frame, (_, rows, columns)), share in zip(frames, shares, strict=True)
            ]
        )
        return lambda cut: kept


def grid_points(count: int, rows: int, columns: int) -> Tensor:
    """(count,) int64 ascending: cells of a grid in evenly spaced rows, evenly spaced within each row."""
    used = max(math.ceil(count / columns), min(rows, round(math.sqrt(count * rows / columns))), 1)
    return torch.cat(
        [
            row * columns + evenly_spaced(share, columns)
            for row, share in zip(
                evenly_spaced(used, rows), split_in_proportion(count, [columns] * used), strict=True
            )
        ]
    )
