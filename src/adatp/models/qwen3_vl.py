"""Qwen3-VL, Qwen3.5, their mixtures of experts and relatives: usually a run for each temporal step."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from adatp.layout import Grid
from adatp.models.registry import register
from adatp.models.shared import PatchGrid
from adatp.tower_flops import packed_tower_flops


@register("qwen3_vl", checkpoint="Qwen/Qwen3-VL-8B-Instruct")
@register("qwen3_vl_moe", checkpoint="Qwen/Qwen3-VL-30B-A3B-Instruct")
@register("qwen3_omni_moe_thinker", checkpoint="Qwen/Qwen3-Omni-30B-A3B-Instruct", since=(5, 23))
@register("cosmos3_omni", checkpoint="nvidia/Cosmos3-Nano")
@register("qwen3_5", checkpoint="Qwen/Qwen3.5-27B")
@register("qwen3_5_moe", checkpoint="Qwen/Qwen3.5-35B-A3B")
class Qwen3VL(PatchGrid):
    """The engine handles the decoder's special parts: DeepStack, and Qwen3.5's linear attention."""

    def fewest_frames(self, processor: Any) -> int:
        """The frames of one temporal step: the processor extends longer videos, but rejects shorter ones."""
        return int(processor.video_processor.temporal_patch_size)

    def vision_flops(self, config: Any, grids: Sequence[Grid]) -> int:
        """Full attention within a temporal step. Each level of DeepStack, if any, has its own merger."""
        vision = config.vision_config
        d, merged = vision.hidden_size, vision.hidden_size * vision.spatial_merge_size**2
        mergers = 1 + len(getattr(vision, "deepstack_visual_indexes", ()))
        return packed_tower_flops(
            vision,
            self.in_patches(config, grids),
            width=d,
            layer=4 * d * d + 2 * d * vision.intermediate_size,
            token=mergers * merged * (merged + vision.out_hidden_size),
        )
