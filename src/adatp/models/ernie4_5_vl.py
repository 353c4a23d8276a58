"""ERNIE 4.5 VL: two temporal steps become one token; visual tokens have experts of their own."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor
from typing_extensions import override

from adatp.layout import Grid
from adatp.models.family import TowerCall
from adatp.models.registry import register
from adatp.models.shared import ByConvention


@register("ernie4_5_vl_moe", checkpoint="baidu/ERNIE-4.5-VL-28B-A3B-PT")
class Ernie45VL(ByConvention):
    """FLOPs count the text experts for every token, although those of visual tokens are narrower."""

    attention = "vision_tower.blocks.-1.attn"

    @override
    def tower_attention(self, config: Any, tower: TowerCall, grids: Sequence[Grid]) -> list[Tensor]:
        """The mean over a token's patches, which are neighbours in each of its temporal steps."""
        assert tower.received is not None
        vision, found, begin = config.vision_config, [], 0
        patches, steps = vision.spatial_merge_size**2, vision.temporal_merge_size
        for frames, rows, columns in grids:
            end = begin + frames * steps * rows * columns * patches
            split = tower.received[begin:end].view(frames, steps, rows * columns, patches)
            found.append(split.mean((1, 3)).flatten())
            begin = end
        return found
