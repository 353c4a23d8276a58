"""Qwen2-VL: a grid of any shape, patches merged two by two, one step in time for two frames."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn

from adatp.flops import qwen2_vision_flops
from adatp.layout import Grid, LayoutError, VideoLayout, build_layouts
from adatp.models.family import TowerCall


class Qwen2VL:
    """``qwen2_vl``. A frame of the layout is one temporal step of the grid."""

    encoded_as = "video"

    def tower(self, model: Any) -> nn.Module:
        """Qwen's own vision transformer, merger included."""
        return cast(nn.Module, model.base_model.visual)

    def merge(self, config: Any) -> int:
        """Patches a side that make a token."""
        return int(config.vision_config.spatial_merge_size)

    def grids(self, config: Any, call: Mapping[str, Any], tower: TowerCall | None) -> list[Grid]:
        """The tower was told its grids in patches; ``generate`` hands them to nobody else."""
        thw = tower.kwargs.get("grid_thw") if tower is not None else call.get("video_grid_thw")
        if thw is None:
            raise LayoutError(
                "the videos' grids are not known: pass video_grid_thw, or encode inside the context"
            )
        merge = self.merge(config)
        return [(t, h // merge, w // merge) for t, h, w in thw.tolist()]

    def grid(self, config: Any, frames: int, height: int, width: int) -> Grid:
        """Any size of frame, in whole merged patches."""
        vision = config.vision_config
        side = vision.patch_size * self.merge(config)
        rows, columns = (max(1, round(length / side)) for length in (height, width))
        return -(-frames // vision.temporal_patch_size), rows, columns

    def layouts(
        self, config: Any, call: Mapping[str, Any], real: Tensor, grids: Sequence[Grid]
    ) -> list[VideoLayout]:
        """Placeholders in the order of the grid; what a later Qwen puts between the frames is text."""
        return build_layouts(
            call["input_ids"],
            real,
            grids,
            video_token_id=config.video_token_id,
            not_text=[config.image_token_id],
            cells=self.cells(call, grids),
        )

    def cells(self, call: Mapping[str, Any], grids: Sequence[Grid]) -> list[Tensor] | None:
        """Every cell has its placeholder."""
        return None

    def frame_features(self, config: Any, tower: TowerCall, grids: Sequence[Grid]) -> list[Tensor]:
        """Hidden states before the merger, each frame's side by side."""
        patches = self.merge(config) ** 2
        states: Tensor = tower.output.last_hidden_state
        videos = torch.split(states, [t * h * w * patches for t, h, w in grids])
        return [video.reshape(t, h * w * patches, -1) for video, (t, h, w) in zip(videos, grids, strict=True)]

    def tower_attention_module(self, model: Any) -> nn.Module:
        """Of the last block, which attends within a temporal step."""
        return cast(nn.Module, model.base_model.visual.blocks[-1].attn)

    def tower_attention(self, config: Any, tower: TowerCall, grids: Sequence[Grid]) -> list[Tensor]:
        """Mean over the patches that are merged into a token; they lie side by side."""
        assert tower.received is not None
        merged = tower.received.view(-1, self.merge(config) ** 2).mean(1)
        return list(torch.split(merged, [t * h * w for t, h, w in grids]))

    def vision_flops(self, config: Any, grids: Sequence[Grid]) -> int:
        """Full attention within a temporal step."""
        return qwen2_vision_flops(config.vision_config, in_patches(config, grids))


def in_patches(config: Any, grids: Sequence[Grid]) -> list[Grid]:
    """Grids of tokens as grids of the patches that were merged into them."""
    merge = config.vision_config.spatial_merge_size
    return [(t, h * merge, w * merge) for t, h, w in grids]
