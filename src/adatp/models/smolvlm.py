"""SmolVLM2: frames are given as images, a run of placeholders each, with timestamps between them."""

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
    """The parts of an image that the processor splits look the same as frames."""

    video_intro = r"Youareprovidedthefollowingseriesof[\w,-]+framesfroma[\d:]+\[H:MM:SS\]video\."

    def tower(self, model: Any) -> nn.Module:
        """Built as SigLIP, without a head."""
        return cast(nn.Module, model.base_model.vision_model)

    def side(self, config: Any) -> int:
        """After the patches of a token are put side by side."""
        vision = config.vision_config
        return int(vision.image_size // vision.patch_size // config.scale_factor)

    def vision_flops(self, config: Any, grids: Sequence[Grid]) -> int:
        """One linear map on every token."""
        vision = config.vision_config
        tower = image_tower_flops(vision, sum(grid[0] for grid in grids))
        merged = vision.hidden_size * config.scale_factor**2
        return tower + linear_flops(sum(map(math.prod, grids)), merged, config.text_config.hidden_size)
