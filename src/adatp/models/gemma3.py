"""Gemma 3: frames are images, each with a run of placeholders, pooled to the same square."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from adatp.layout import Grid
from adatp.models.registry import register
from adatp.models.shared import FramesAsImages
from adatp.tower_flops import linear_flops, siglip_vision_flops


@register("gemma3", checkpoint="google/gemma-3-4b-it")
class Gemma3(FramesAsImages):
    """The tower is SigLIP. Crops from pan and scan look the same as frames."""

    def side(self, config: Any) -> int:
        """Tokens on a side of a frame, after pooling."""
        return int(config.mm_tokens_per_image**0.5)

    def takes_videos(self, processor: Any) -> bool:
        """The processor has no video processor."""
        return False

    def vision_flops(self, config: Any, grids: Sequence[Grid]) -> int:
        """One linear map on every pooled token."""
        vision = config.vision_config
        tower = siglip_vision_flops(vision, sum(grid[0] for grid in grids))
        tokens = sum(map(math.prod, grids))
        return tower + linear_flops(tokens, vision.hidden_size, config.text_config.hidden_size)
