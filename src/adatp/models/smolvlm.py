"""SmolVLM2: as InternVL, with a tower of SigLIP's kind and timestamps between the frames."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

from torch import nn

from adatp.flops import siglip_vision_flops, smolvlm_connector_flops
from adatp.layout import Grid
from adatp.models.internvl import InternVL


class SmolVLM(InternVL):
    """``smolvlm``. The parts of a split picture look like frames too."""

    video_intro = r"Youareprovidedthefollowingseriesof[\w,-]+framesfroma[\d:]+\[H:MM:SS\]video\."

    def tower(self, model: Any) -> nn.Module:
        """Of SigLIP's kind, no class token."""
        return cast(nn.Module, model.base_model.vision_model)

    def grid(self, config: Any, frames: int, height: int, width: int) -> Grid:
        """Every frame is resized to the tower's square."""
        vision = config.vision_config
        side = vision.image_size // vision.patch_size // config.scale_factor
        return frames, side, side

    def tower_attention_module(self, model: Any) -> nn.Module:
        """Of the last layer."""
        return cast(nn.Module, model.base_model.vision_model.encoder.layers[-1].self_attn)

    def vision_flops(self, config: Any, grids: Sequence[Grid]) -> int:
        """Every frame through the tower, every token through the connector."""
        frames = sum(grid[0] for grid in grids)
        tower = siglip_vision_flops(config.vision_config, frames, head=False)
        return tower + smolvlm_connector_flops(config, frames * grids[0][1] * grids[0][2])
