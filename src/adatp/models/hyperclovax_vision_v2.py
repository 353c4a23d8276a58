"""HyperCLOVA X Vision 2: Qwen2.5-VL's tower under another name, followed by a linear map."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, cast

from torch import nn

from adatp.layout import Grid
from adatp.models.registry import register
from adatp.models.shared import WindowedPatches
from adatp.tower_flops import linear_flops


@register("hyperclovax_vision_v2", checkpoint="naver-hyperclovax/HyperCLOVAX-SEED-Think-32B")
class HyperClovaXVision(WindowedPatches):
    """All placeholders of a video are in one run."""

    def tower(self, model: Any) -> nn.Module:
        """The vision tower with its merger."""
        return cast(nn.Module, model.base_model.vision_model)

    def tower_attention_module(self, model: Any) -> nn.Module:
        """The attention module of the last block, which attends within a temporal step."""
        return cast(nn.Module, model.base_model.vision_model.blocks[-1].attn)

    def vision_flops(self, config: Any, grids: Sequence[Grid]) -> int:
        """The linear map comes after the merger."""
        tokens = sum(map(math.prod, grids))
        mapped = linear_flops(tokens, config.vision_config.out_hidden_size, config.text_config.hidden_size)
        return super().vision_flops(config, grids) + mapped
