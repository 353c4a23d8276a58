"""VideoLLaMA3: a run of placeholders for every frame, without places that have not changed."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn

from adatp.layout import Grid, LayoutError
from adatp.models.family import TowerCall
from adatp.models.registry import register
from adatp.models.shared import PatchGrid
from adatp.models.shared.patch_grid import split_frames
from adatp.models.shared.square_frames import encoder_layers
from adatp.tower_flops import image_tower_flops, linear_flops


@register("video_llama_3", checkpoint="lkhl/VideoLLaMA3-2B-Image-HF")
class VideoLlama3(PatchGrid):
    """The tower encodes complete frames. Tokens are left out after the projector."""

    def tower(self, model: Any) -> nn.Module:
        """The vision tower, whose output is already merged."""
        return cast(nn.Module, model.base_model.vision_model)

    def tower_attention_module(self, model: Any) -> nn.Module:
        """The attention module of the last layer, which attends within a frame."""
        return cast(nn.Module, encoder_layers(self.tower(model))[-1].self_attn)

    def merge(self, config: Any) -> int:
        """The processor's default for videos. The config does not give it."""
        return 2

    def grids(self, config: Any, call: Mapping[str, Any], tower: TowerCall | None) -> list[Grid]:
        """Refused where the processor merges patches in another way."""
        merged = tower.kwargs.get("merge_sizes") if tower is not None else call.get("video_merge_sizes")
        if merged is not None and (merged != self.merge(config)).any():
            raise LayoutError("patches of a video are merged two by two: leave merge_size as it is")
        return super().grids(config, call, tower)

    def cells(self, call: Mapping[str, Any], grids: Sequence[Grid]) -> list[Tensor] | None:
        """The cells that the processor's mask keeps."""
        mask, sizes = call.get("video_compression_mask"), list(map(math.prod, grids))
        if mask is None:
            return None
        # With several return sequences, each of its elements is repeated.
        videos = torch.split(mask[:: len(mask) // sum(sizes)], sizes)
        return [video.nonzero().squeeze(1) for video in videos]

    def processor_options(self, processor: Any, *, every_token: bool = False) -> dict[str, Any]:
        """Its compression leaves tokens out. Older processors have none."""
        compresses = hasattr(processor.video_processor, "use_token_compression")
        return {"use_token_compression": False} if every_token and compresses else {}

    def frame_features(self, config: Any, tower: TowerCall, grids: Sequence[Grid]) -> list[Tensor]:
        """The projector's input for complete frames."""
        return split_frames(tower.output.last_hidden_state, grids)

    def vision_flops(self, config: Any, grids: Sequence[Grid]) -> int:
        """FLOPs of complete frames, which differ in size."""
        vision, text, flops = config.vision_config, config.text_config.hidden_size, 0
        for frames, rows, columns in grids:
            tokens = rows * columns
            flops += image_tower_flops(vision, frames, patches=tokens * self.merge(config) ** 2)
            flops += linear_flops(frames * tokens, vision.hidden_size, text, text)
        return flops
