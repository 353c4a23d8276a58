"""Gemma 3: as SmolVLM2, without timestamps; every frame is pooled to the same square of tokens."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

from torch import nn

from adatp.flops import gemma3_projector_flops, siglip_vision_flops
from adatp.layout import Grid
from adatp.models.internvl import InternVL


class Gemma3(InternVL):
    """``gemma3``. Its processor knows pictures only; the crops of pan and scan look like frames too."""

    def grid(self, config: Any, frames: int, height: int, width: int) -> Grid:
        """Every frame is resized to the tower's square."""
        side = int(config.mm_tokens_per_image**0.5)
        return frames, side, side

    def tower_attention_module(self, model: Any) -> nn.Module:
        """Of the last layer."""
        tower: Any = self.tower(model)
        tower = getattr(tower, "vision_model", tower)  # transformers 5.5
        return cast(nn.Module, tower.encoder.layers[-1].self_attn)

    def vision_flops(self, config: Any, grids: Sequence[Grid]) -> int:
        """Every frame through the tower, every token through the projector."""
        frames, (_, rows, columns) = sum(grid[0] for grid in grids), grids[0]
        tower = siglip_vision_flops(config.vision_config, frames)
        return tower + gemma3_projector_flops(config, frames * rows * columns)
