"""Families that project SigLIP's patches first and pool them two by two afterwards, as LLaVA-OneVision
does.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch.nn.functional as F
from torch import Tensor

from adatp.layout import Grid
from adatp.models.shared.square_frames import SelectedLayer
from adatp.tower_flops import siglip_vision_flops


class PooledAfterwards(SelectedLayer):
    """Tokens are interpolated from the projected patches."""

    def side(self, config: Any) -> int:
        """Half of the patches on a side, rounded up."""
        return math.ceil(self.patches_a_side(config) / 2)

    def pool(self, patches: Tensor, side: int) -> Tensor:
        """Interpolate (frames, 1, n, n) in the same way as the projected patches."""
        return F.interpolate(patches, size=(side, side), mode="bilinear")

    def vision_flops(self, config: Any, grids: Sequence[Grid]) -> int:
        """Every patch is projected, and then pooled."""
        frames = sum(grid[0] for grid in grids)
        tower = siglip_vision_flops(config.vision_config, frames)
        return tower + self.projector_flops(config, frames * self.patches_a_side(config) ** 2)
