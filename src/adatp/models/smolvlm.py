"""SmolVLM2: frames are images, each with a run of placeholders and timestamps between them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, cast

from torch import nn

from adatp.layout import Grid
from adatp.models.registry import register
from adatp.models.shared import FramesAsImages
from adatp.tower_flops import image_tower_flops, linear_flops


@register("smolvlm", checkpoint="HuggingFaceTB/SmolVLM2-2.2B-Instruct")
class SmolVLM(FramesAsImages):
    """If the processor splits an image, its parts look the same as frames."""

    video_intro = r"Youareprovidedthefollowingseriesof[\w,-]+framesfroma[\d:]+\[H:MM:SS\]video\."

    def tower(self, model: Any) -> nn.Module:
        """The vision tower, built like SigLIP but without a head."""
        return cast(nn.Module, model.base_model.vision_model)

    def side(self, config: Any) -> int:
        """Tokens on a side of a frame, after patches are concatenated."""
        vision = config.vision_config
        return int(vision.image_size // vision.patch_size // config.scale_factor)

    def vision_flops(self, config: Any, grids: Sequence[Grid]) -> int:
        """One linear map on every token."""
        vision = config.vision_config
        tower = image_tower_flops(vision, sum(grid[0] for grid in grids))
        merged = vision.hidden_size * config.scale_factor**2
        return tower + linear_flops(sum(map(math.prod, grids)), merged, config.text_config.hidden_size)
