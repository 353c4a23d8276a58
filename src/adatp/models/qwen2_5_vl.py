"""Qwen2.5-VL: a grid of any shape, patches merged two by two, one step in time for two frames."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn

from adatp.flops import qwen2_5_vision_flops
from adatp.layout import Grid, LayoutError, VideoLayout, build_layouts
from adatp.models.family import TowerCall


class Qwen25VL:
    """``qwen2_5_vl``. A frame of the layout is one temporal step of the grid."""

    def tower(self, model: Any) -> nn.Module:
        """Qwen's own vision transformer, merger included."""
        return cast(nn.Module, model.base_model.visual)

    def grids(self, config: Any, call: Mapping[str, Any], tower: TowerCall | None) -> list[Grid]:
        """The tower was told its grids in patches; ``generate`` hands them to nobody else."""
        thw = tower.kwargs.get("grid_thw") if tower is not None else call.get("video_grid_thw")
        if thw is None:
            raise LayoutError(
                "the videos' grids are not known: pass video_grid_thw, or encode inside the context"
            )
        merge = config.vision_config.spatial_merge_size
        return [(t, h // merge, w // merge) for t, h, w in thw.tolist()]

    def layouts(
        self, config: Any, input_ids: Tensor, real: Tensor, grids: Sequence[Grid]
    ) -> list[VideoLayout]:
        """One run of placeholders a video, nothing between the frames."""
        return build_layouts(
            input_ids,
            real,
            grids,
            video_token_id=config.video_token_id,
            not_text=[config.image_token_id],
        )

    def frame_features(self, config: Any, tower: TowerCall, grids: Sequence[Grid]) -> list[Tensor]:
        """Hidden states before the merger; patches are in window order, each frame's side by side."""
        patches = config.vision_config.spatial_merge_size**2
        states: Tensor = tower.output.last_hidden_state
        videos = torch.split(states, [t * h * w * patches for t, h, w in grids])
        return [video.reshape(t, h * w * patches, -1) for video, (t, h, w) in zip(videos, grids, strict=True)]

    def tower_attention_module(self, model: Any) -> nn.Module:
        """Of the last block, which attends within a temporal step."""
        return cast(nn.Module, model.base_model.visual.blocks[-1].attn)

    def tower_attention(self, config: Any, tower: TowerCall, grids: Sequence[Grid]) -> list[Tensor]:
        """Mean over the patches that are merged into a token, put back from window order."""
        assert tower.received is not None
        vision = config.vision_config
        merged = tower.received.view(-1, vision.spatial_merge_size**2).mean(1)
        window = vision.window_size // vision.spatial_merge_size // vision.patch_size
        videos = torch.split(merged, [t * h * w for t, h, w in grids])
        return [
            video[_window_order(grid, window).argsort().to(video.device)]
            for video, grid in zip(videos, grids, strict=True)
        ]

    def vision_flops(self, config: Any, grids: Sequence[Grid]) -> int:
        """Window attention in most layers, full attention within a temporal step in a few."""
        merge = config.vision_config.spatial_merge_size
        return qwen2_5_vision_flops(config.vision_config, [(t, h * merge, w * merge) for t, h, w in grids])


def _window_order(grid: Grid, window: int) -> Tensor:
    """The tokens of a video, (tokens,) int64 in raster order, in the order in which the tower runs them."""
    cell = torch.cartesian_prod(*map(torch.arange, grid))
    frame, row, column = cell.unbind(1)
    across = -(-grid[2] // window)
    number = (frame * -(-grid[1] // window) + row // window) * across + column // window
    return number.argsort(stable=True)
