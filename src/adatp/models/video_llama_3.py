"""VideoLLaMA3: a run of placeholders for every frame, without what stands still since the frame before."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn

from adatp.flops import video_llama_3_vision_flops
from adatp.layout import Grid, LayoutError
from adatp.models.family import TowerCall
from adatp.models.qwen2_vl import Qwen2VL


class VideoLlama3(Qwen2VL):
    """``video_llama_3``. The tower encodes whole frames; tokens are left out behind the projector."""

    def tower(self, model: Any) -> nn.Module:
        """Its output is merged already."""
        return cast(nn.Module, model.base_model.vision_model)

    def merge(self, config: Any) -> int:
        """The processor's, for videos; the config does not tell."""
        return 2

    def grids(self, config: Any, call: Mapping[str, Any], tower: TowerCall | None) -> list[Grid]:
        """In merged patches."""
        merged = tower.kwargs.get("merge_sizes") if tower is not None else call.get("video_merge_sizes")
        if merged is not None and (merged != self.merge(config)).any():
            raise LayoutError("patches of a video are merged two by two: leave merge_size as it is")
        return super().grids(config, call, tower)

    def grid(self, config: Any, frames: int, height: int, width: int) -> Grid:
        """Any size of frame, in whole merged patches; what the processor leaves out is not known."""
        side = config.vision_config.patch_size * self.merge(config)
        return frames, max(1, round(height / side)), max(1, round(width / side))

    def cells(self, call: Mapping[str, Any], grids: Sequence[Grid]) -> list[Tensor] | None:
        """Of each video those that the processor's mask names."""
        mask, sizes = call.get("video_compression_mask"), list(map(math.prod, grids))
        if mask is None:
            return None
        # For several return sequences each of its elements is repeated.
        videos = torch.split(mask[:: len(mask) // sum(sizes)], sizes)
        return [video.nonzero().squeeze(1) for video in videos]

    def frame_features(self, config: Any, tower: TowerCall, grids: Sequence[Grid]) -> list[Tensor]:
        """What the projector reads."""
        videos = torch.split(tower.output.last_hidden_state, list(map(math.prod, grids)))
        return [video.reshape(t, h * w, -1) for video, (t, h, w) in zip(videos, grids, strict=True)]

    def tower_attention_module(self, model: Any) -> nn.Module:
        """Of the last layer, which attends within a frame."""
        return cast(nn.Module, model.base_model.vision_model.encoder.layers[-1].self_attn)

    def vision_flops(self, config: Any, grids: Sequence[Grid]) -> int:
        """Of whole frames: tokens are left out afterwards."""
        return video_llama_3_vision_flops(config, grids, self.merge(config))
