"""InternVL: frames are images, each with a run of placeholders and text between them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, cast

from torch import nn

from adatp.layout import Grid
from adatp.models.registry import register
from adatp.models.shared import FramesAsImages
from adatp.tower_flops import image_tower_flops, linear_flops


@register("internvl", checkpoint="OpenGVLab/InternVL3-1B-hf")
class InternVL(FramesAsImages):
    """The tower is InternViT. The patches of a token are concatenated and projected."""

    def side(self, config: Any) -> int:
        """Tokens on a side of a frame, after patches are concatenated."""
        vision = config.vision_config
        return int(vision.image_size[0] // vision.patch_size[0] * config.downsample_ratio)

    def tower_attention_module(self, model: Any) -> nn.Module:
        """The attention module of the last layer."""
        tower: Any = self.tower(model)
        return cast(nn.Module, tower.encoder.layer[-1].attention)

    def vision_flops(self, config: Any, grids: Sequence[Grid]) -> int:
        """Every token of a frame is projected."""
        vision, text = config.vision_config, config.text_config.hidden_size
        tower = image_tower_flops(vision, sum(grid[0] for grid in grids), class_token=True)
        merged = vision.hidden_size * int(1 / config.downsample_ratio) ** 2
        return tower + linear_flops(sum(map(math.prod, grids)), merged, text, text)
