"""Groups the visual tokens of a prompt by video and by frame."""

from __future__ import annotations

import math
from itertools import islice

import torch
from torch import Tensor

from adatp.layout import VideoLayout


def numbers_by_frame(layout: VideoLayout, device: torch.device) -> list[list[Tensor]]:
    """The numbers of each frame's visual tokens, (n,) int64, frame by frame of each video."""
    numbers = torch.arange(len(layout.index), device=device)
    frames = iter(torch.split(numbers, layout.tokens_by_frame.tolist()))
    return [list(islice(frames, grid[0])) for grid in layout.grids]


def split_by_video(layout: VideoLayout, values: Tensor) -> list[Tensor]:
    """Values (n, ...) of all visual tokens, as (frames, positions, ...) per video, zeros elsewhere."""
    cells = torch.split(layout.by_cell(values), list(map(math.prod, layout.grids)))
    return [part.view(grid[0], -1, *part.shape[1:]) for part, grid in zip(cells, layout.grids, strict=True)]


def there_by_video(layout: VideoLayout, device: torch.device) -> list[Tensor]:
    """Where there is a token, (frames, positions) bool of each video."""
    return split_by_video(layout, torch.ones(len(layout.index), dtype=torch.bool, device=device))


def numbers_by_video(layout: VideoLayout, device: torch.device) -> list[Tensor]:
    """The number of each visual token of complete frames, (frames, positions) int64 of each video."""
    return split_by_video(layout, torch.arange(len(layout.index), device=device))
