"""Qwen2-VL: a grid of any shape, patches merged two by two, two frames in one temporal step."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from adatp.layout import Grid
from adatp.models.registry import register
from adatp.models.shared import PatchGrid
from adatp.tower_flops import packed_tower_flops


@register("qwen2_vl", checkpoint="Qwen/Qwen2-VL-7B-Instruct")
class Qwen2VL(PatchGrid):
    """All placeholders of a video are in one run."""

    def vision_flops(self, config: Any, grids: Sequence[Grid]) -> int:
        """Full attention within a temporal step."""
        vision = config.vision_config
        d, merged = vision.embed_dim, vision.embed_dim * vision.spatial_merge_size**2
        return packed_tower_flops(
            vision,
            self.in_patches(config, grids),
            width=d,
            layer=4 * d * d + 2 * d * int(d * vision.mlp_ratio),
            token=merged * (merged + vision.hidden_size),
        )
