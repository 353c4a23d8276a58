"""Video-LLaVA: every patch of a frame is a token, and so is the frame's class token."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn

from adatp.flops import clip_vision_flops, llava_projector_flops
from adatp.layout import NO_CELL, Grid, runs
from adatp.models.family import TowerCall, copies
from adatp.models.llava_onevision import LlavaOnevision, patches_a_side


class VideoLlava(LlavaOnevision):
    """``video_llava``. A frame's class token shows no place in it: no visual token, and never dropped."""

    def tower(self, model: Any) -> nn.Module:
        """Videos have a tower of their own."""
        return cast(nn.Module, model.base_model.video_tower)

    def grid(self, config: Any, frames: int, height: int, width: int) -> Grid:
        """Every frame is resized to the tower's square."""
        side = patches_a_side(config)
        return frames, side, side

    def grids(self, config: Any, call: Mapping[str, Any], tower: TowerCall | None) -> list[Grid]:
        """Frames come encoded side by side: a run of placeholders is a video."""
        _, side, _ = self.grid(config, 1, 0, 0)
        lengths = runs(call["input_ids"], config.video_token_id)
        frames = [[length // (side**2 + 1) for length in row] for row in lengths]
        return [
            (count, side, side) for row in frames[:: copies(sum(map(sum, frames)), tower)] for count in row
        ]

    def cells(self, grid: Grid) -> Tensor:
        """In one run, each frame's class token first."""
        frames, rows, columns = grid
        cells = torch.arange(frames * rows * columns).view(frames, -1)
        return torch.cat([torch.full((frames, 1), NO_CELL), cells], 1).flatten()

    def pool(self, patches: Tensor, grid: Grid) -> Tensor:
        """Nothing is pooled."""
        return patches

    def vision_flops(self, config: Any, grids: Sequence[Grid]) -> int:
        """Every frame through the tower, all its tokens through the projector."""
        tokens = sum(frames * (rows * columns + 1) for frames, rows, columns in grids)
        tower = clip_vision_flops(config.vision_config, sum(grid[0] for grid in grids))
        return tower + llava_projector_flops(config, tokens)
