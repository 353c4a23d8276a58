"""LLaVA-NeXT-Video: a square grid for each frame, pooled before the projector, and no newlines."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from adatp.layout import Grid
from adatp.models.registry import register
from adatp.models.shared import SelectedLayer
from adatp.tower_flops import image_tower_flops


@register("llava_next_video", checkpoint="llava-hf/LLaVA-NeXT-Video-7B-hf")
class LlavaNextVideo(SelectedLayer):
    """A family whose vision tower is CLIP."""

    def side(self, config: Any) -> int:
        """Tokens on a side of a frame, after pooling."""
        return int(self.patches_a_side(config) // config.spatial_pool_stride)

    def vision_flops(self, config: Any, grids: Sequence[Grid]) -> int:
        """Every pooled token is projected."""
        tower = image_tower_flops(config.vision_config, sum(grid[0] for grid in grids), class_token=True)
        return tower + self.projector_flops(config, sum(map(math.prod, grids)))
