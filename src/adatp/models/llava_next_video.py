"""LLaVA-NeXT-Video: CLIP's square grid a frame, pooled, and nothing else among a video's placeholders."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch.nn.functional as F
from torch import Tensor

from adatp.flops import clip_vision_flops, llava_projector_flops
from adatp.layout import Grid
from adatp.models.llava_onevision import LlavaOnevision, patches_a_side


class LlavaNextVideo(LlavaOnevision):
    """``llava_next_video``."""

    newlines = 0

    def grid(self, config: Any, frames: int, height: int, width: int) -> Grid:
        """Every frame is resized to the tower's square."""
        side = patches_a_side(config) // config.spatial_pool_stride
        return frames, side, side

    def pool(self, patches: Tensor, grid: Grid) -> Tensor:
        """The mean of what is pooled."""
        return F.avg_pool2d(patches, patches.shape[2] // grid[1])

    def vision_flops(self, config: Any, grids: Sequence[Grid]) -> int:
        """Every frame through the tower, every pooled token through the projector."""
        tokens = sum(frames * rows * columns for frames, rows, columns in grids)
        tower = clip_vision_flops(config.vision_config, sum(grid[0] for grid in grids))
        return tower + llava_projector_flops(config, tokens)
