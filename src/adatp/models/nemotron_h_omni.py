"""Nemotron-H Omni: RADIO on pairs of frames, with a run of placeholders and timestamps per pair."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from typing_extensions import override

from adatp.errors import PruningError
from adatp.layout import Grid
from adatp.models.family import Family, TowerCall
from adatp.models.registry import register
from adatp.models.shared import ByConvention
from adatp.tower_flops import linear_flops, plain_tower_flops


@register("nemotron_h_omni", checkpoint="nvidia/Nemotron-3-Nano-Omni-30B-A3B-Reasoning-BF16", since=(5, 24))
class NemotronHOmni(ByConvention):
    """A video's placeholders are those of images. Mamba layers run on the tokens that are left."""

    attention = "vision_model.encoder.layer.-1.attention"

    @override
    def of(self, model: Any) -> Family:
        if rate := model.video_pruning_rate:
            raise PruningError(
                f"this model drops {rate:.0%} of a video's tokens itself, before adatp sees them: set "
                "model.video_pruning_rate = 0 first, or load it with a config.json that says so"
            )
        return super().of(model)

    @override
    def grid(self, config: Any, frames: int, height: int, width: int) -> Grid:
        side = config.vision_config.patch_size / config.downsample_ratio
        rows, columns = (max(1, round(length / side)) for length in (height, width))
        return -(-frames // config.video_temporal_patch_size), rows, columns

    @override
    def tower_attention(self, config: Any, tower: TowerCall, grids: Sequence[Grid]) -> list[Tensor]:
        """The mean over a token's patches, which are in raster order after class tokens and registers."""
        assert tower.received is not None
        merge = round(1 / config.downsample_ratio)
        frames, first = sum(grid[0] for grid in grids), config.vision_config.num_summary_tokens
        received, found = tower.received.view(frames, -1)[:, first:], []
        for video, (count, rows, columns) in zip(
            torch.split(received, [grid[0] for grid in grids]), grids, strict=True
        ):
            patches = video.reshape(count, rows, merge, columns, merge)
            found.append(patches.mean((2, 4)).flatten())
        return found

    @override
    def vision_flops(self, config: Any, grids: Sequence[Grid]) -> int:
        """Tower and projector. The tower's MLP is four times as wide as its states."""
        vision, merged = config.vision_config, round(1 / config.downsample_ratio) ** 2
        d, tokens = vision.hidden_size, sum(map(math.prod, grids))
        frames = [(grid[0], merged * math.prod(grid[1:]) + vision.num_summary_tokens) for grid in grids]
        embedded = linear_flops(merged * tokens, vision.video_patch_dim, d)
        projected = linear_flops(
            tokens, merged * d, config.projector_hidden_size, config.text_config.hidden_size
        )
        return embedded + plain_tower_flops(vision, frames) + projected

    @override
    def fewest_frames(self, processor: Any) -> int:
        return int(processor.video_temporal_patch_dim)
