"""Qwen2.5-VL: as Qwen2-VL, but most layers of its tower attend within windows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from adatp.flops import qwen2_5_vision_flops
from adatp.layout import Grid
from adatp.models.family import TowerCall
from adatp.models.qwen2_vl import Qwen2VL, in_patches


class Qwen25VL(Qwen2VL):
    """``qwen2_5_vl``. The tower runs a frame's patches in window order; frames stay side by side."""

    def tower_attention(self, config: Any, tower: TowerCall, grids: Sequence[Grid]) -> list[Tensor]:
        """Put back from window order."""
        vision = config.vision_config
        window = vision.window_size // vision.spatial_merge_size // vision.patch_size
        return [
            video[_window_order(grid, window).argsort().to(video.device)]
            for video, grid in zip(super().tower_attention(config, tower, grids), grids, strict=True)
        ]

    def vision_flops(self, config: Any, grids: Sequence[Grid]) -> int:
        """Window attention in most layers, full attention within a temporal step in a few."""
        return qwen2_5_vision_flops(config.vision_config, in_patches(config, grids))


def _window_order(grid: Grid, window: int) -> Tensor:
    """The tokens of a video, (tokens,) int64 in raster order, in the order in which the tower runs them."""
    cell = torch.cartesian_prod(*map(torch.arange, grid))
    frame, row, column = cell.unbind(1)
    across = -(-grid[2] // window)
    number = (frame * -(-grid[1] // window) + row // window) * across + column // window
    return number.argsort(stable=True)
