"""LLaVA-OneVision: a square grid for each frame, pooled two by two, and one newline after each video."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch.nn.functional as F
from torch import Tensor

from adatp.layout import Grid
from adatp.models.registry import register
from adatp.models.shared import SelectedLayer
from adatp.tower_flops import siglip_vision_flops


@register("llava_onevision", checkpoint="llava-hf/llava-onevision-qwen2-7b-ov-hf")
class LlavaOnevision(SelectedLayer):
    """The newline at the end of a video is no visual token, and is never dropped. The tower is SigLIP."""

    newlines = 1

    def side(self, config: Any) -> int:
        """Half of the patches on a side, rounded up."""
        return math.ceil(self.patches_a_side(config) / 2)

    def pool(self, patches: Tensor, side: int) -> Tensor:
        """Interpolated, as the projected patches are."""
        return F.interpolate(patches, size=(side, side), mode="bilinear")

    def vision_flops(self, config: Any, grids: Sequence[Grid]) -> int:
        """Every patch is projected, and pooled afterwards."""
        frames = sum(grid[0] for grid in grids)
        tower = siglip_vision_flops(config.vision_config, frames)
        return tower + self.projector_flops(config, frames * self.patches_a_side(config) ** 2)
