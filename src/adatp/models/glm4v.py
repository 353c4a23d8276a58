"""GLM-4.1V and GLM-4.6V: a run of placeholders and a timestamp for every temporal step."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from adatp.flops import glm4v_vision_flops
from adatp.layout import Grid, VideoLayout, build_layouts
from adatp.models.family import TowerCall
from adatp.models.qwen2_vl import Qwen2VL, in_patches


class Glm4v(Qwen2VL):
    """``glm4v``, ``glm46v``. A picture's placeholders are the same, but a video has brackets of its own."""

    def grids(self, config: Any, call: Mapping[str, Any], tower: TowerCall | None) -> list[Grid]:
        """The tower was given every temporal step by itself; what it returned is split by video."""
        if tower is None or "grid_thw" not in tower.kwargs:
            return super().grids(config, call, None)
        merge = config.vision_config.spatial_merge_size
        steps, grids = tower.kwargs["grid_thw"].tolist(), []
        for video in tower.output.pooler_output:
            _, height, width = steps[0]
            rows, columns = height // merge, width // merge
            grids.append((len(video) // (rows * columns), rows, columns))
            steps = steps[grids[-1][0] :]
        return grids

    def layouts(
        self, config: Any, call: Mapping[str, Any], real: Tensor, grids: Sequence[Grid]
    ) -> list[VideoLayout]:
        """The placeholders between a video's brackets."""
        input_ids: Tensor = call["input_ids"]
        opened = (input_ids == config.video_start_token_id).cumsum(1)
        inside = opened > (input_ids == config.video_end_token_id).cumsum(1)
        shown = (input_ids == config.image_token_id) & inside
        return build_layouts(
            input_ids.masked_fill(shown, config.video_token_id),
            real,
            grids,
            video_token_id=config.video_token_id,
            not_text=[config.image_token_id],
        )

    def frame_features(self, config: Any, tower: TowerCall, grids: Sequence[Grid]) -> list[Tensor]:
        """Patches merged already, before the projector."""
        videos = torch.split(tower.output.last_hidden_state, [t * h * w for t, h, w in grids])
        return [video.reshape(t, h * w, -1) for video, (t, h, w) in zip(videos, grids, strict=True)]

    def vision_flops(self, config: Any, grids: Sequence[Grid]) -> int:
        """Full attention within a temporal step."""
        return glm4v_vision_flops(config.vision_config, in_patches(config, grids))
