"""GLM-4.1V, GLM-4.5V and GLM-4.6V: a run of placeholders and a timestamp for every temporal step."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from adatp.layout import Grid, VideoLayout, build_layouts
from adatp.models.family import TowerCall
from adatp.models.registry import register
from adatp.models.shared import PatchGrid
from adatp.models.shared.patch_grid import split_frames
from adatp.tower_flops import packed_tower_flops


@register("glm4v", checkpoint="zai-org/GLM-4.1V-9B-Thinking")
@register("glm4v_moe", checkpoint="zai-org/GLM-4.5V")
@register("glm_ocr", checkpoint="zai-org/GLM-OCR")
@register("glm46v", checkpoint="zai-org/GLM-4.6V-Flash")
class Glm4v(PatchGrid):
    """A video has the placeholders of images, between its own brackets."""

    def fewest_frames(self, processor: Any) -> int:
        """The frames of one temporal step: the processor extends longer videos, but rejects shorter ones."""
        return int(processor.video_processor.temporal_patch_size)

    def grids(self, config: Any, call: Mapping[str, Any], tower: TowerCall | None) -> list[Grid]:
        """The tower receives every temporal step as a video. Its output is split by video."""
        if tower is None or "grid_thw" not in tower.kwargs:
            return super().grids(config, call, None)
        merge = self.merge(config)
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
        return build_layouts(
            input_ids.masked_fill((input_ids == config.image_token_id) & inside, config.video_token_id),
            real,
            grids,
            video_token_id=config.video_token_id,
            not_text=[config.image_token_id],
        )

    def frame_features(self, config: Any, tower: TowerCall, grids: Sequence[Grid]) -> list[Tensor]:
        """Patches before the projector, already merged by the tower."""
        return split_frames(tower.output.last_hidden_state, grids)

    def vision_flops(self, config: Any, grids: Sequence[Grid]) -> int:
        """Full attention within a temporal step. A convolution merges patches; the merger follows."""
        vision = config.vision_config
        d, out = vision.hidden_size, vision.out_hidden_size
        return packed_tower_flops(
            vision,
            self.in_patches(config, grids),
            width=d,
            layer=4 * d * d + 3 * d * out,
            token=vision.spatial_merge_size**2 * d * out + out * out + 3 * out * vision.intermediate_size,
        )
