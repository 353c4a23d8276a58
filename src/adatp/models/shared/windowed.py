"""Families with packed patches that attend within windows in most layers: Qwen2.5-VL and its relatives."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from adatp.layout import Grid
from adatp.models.family import TowerCall
from adatp.models.shared.patch_grid import PatchGrid
from adatp.tower_flops import packed_tower_flops


class WindowedPatches(PatchGrid):
    """The tower processes a frame's patches window by window. Frames stay in order."""

    def tower_attention(self, config: Any, tower: TowerCall, grids: Sequence[Grid]) -> list[Tensor]:
        """Attention put back from the order of windows."""
        window = _window(config.vision_config)
        return [
            video[_window_order(grid, window).argsort().to(video.device)]
            for video, grid in zip(super().tower_attention(config, tower, grids), grids, strict=True)
        ]

    def vision_flops(self, config: Any, grids: Sequence[Grid]) -> int:
        """Full attention within a temporal step in the layers that the config names, else in windows."""
        vision = config.vision_config
        d, merge, window = vision.hidden_size, vision.spatial_merge_size, _window(vision)
        heads = vision.num_heads
        shared = getattr(vision, "num_key_value_heads", heads) * d // heads  # width of the keys
        full_layers = sum(layer in vision.fullatt_block_indexes for layer in range(vision.depth))

        def pairs(rows: int, columns: int) -> int:
            full = (rows * columns) ** 2
            windowed = merge**4 * _squares(rows // merge, window) * _squares(columns // merge, window)
            return int(full_layers * full + (vision.depth - full_layers) * windowed)

        return packed_tower_flops(
            vision,
            self.in_patches(config, grids),
            width=d,
            layer=2 * d * (d + shared) + 3 * d * vision.intermediate_size,
            token=d * merge**2 * (d * merge**2 + vision.out_hidden_size),
            pairs=pairs,
        )


def _window(vision: Any) -> int:
    """Number of tokens on a side of a window."""
    return int(vision.window_size // vision.spatial_merge_size // vision.patch_size)


def _window_order(grid: Grid, window: int) -> Tensor:
    """Numbers (tokens,) int64 of a video's tokens, counted row by row, in the tower's order."""
    cell = torch.cartesian_prod(*map(torch.arange, grid))
    frame, row, column = cell.unbind(1)
    across = -(-grid[2] // window)
    window_of_token = (frame * -(-grid[1] // window) + row // window) * across + column // window
    return window_of_token.argsort(stable=True)


def _squares(length: int, window: int) -> int:
    """Sum of the squared sizes of the windows that a length is cut into."""
    full, rest = divmod(length, window)
    return full * window**2 + rest**2
