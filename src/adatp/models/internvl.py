"""InternVL: frames are given as pictures, a run of placeholders each, words between them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from adatp.flops import internvl_vision_flops
from adatp.layout import Grid, LayoutError, VideoLayout, build_layouts, runs
from adatp.models.family import TowerCall, copies


class InternVL:
    """``internvl``. A picture of one crop looks like a frame: all those of a prompt are its one video."""

    encoded_as = "image"

    def tower(self, model: Any) -> nn.Module:
        """InternViT."""
        return cast(nn.Module, model.base_model.vision_tower)

    def grid(self, config: Any, frames: int, height: int, width: int) -> Grid:
        """Every frame is resized to the tower's square."""
        vision = config.vision_config
        side = int(vision.image_size[0] // vision.patch_size[0] * config.downsample_ratio)
        return frames, side, side

    def grids(self, config: Any, call: Mapping[str, Any], tower: TowerCall | None) -> list[Grid]:
        """One video a prompt, a run of placeholders a frame."""
        _, side, _ = self.grid(config, 1, 0, 0)
        prompts = runs(call["input_ids"], config.image_token_id)
        if any(len(frames) == 1 or {*frames} - {side**2} for frames in prompts):
            raise LayoutError("a lone picture, or one of several crops, is no video's frame")
        return [
            (len(frames), side, side)
            for frames in prompts[:: copies(sum(map(len, prompts)), tower)]
            if frames
        ]

    def layouts(
        self, config: Any, call: Mapping[str, Any], real: Tensor, grids: Sequence[Grid]
    ) -> list[VideoLayout]:
        """What stands between the frames is text."""
        return build_layouts(call["input_ids"], real, grids, video_token_id=config.image_token_id)

    def frame_features(self, config: Any, tower: TowerCall, grids: Sequence[Grid]) -> list[Tensor]:
        """The hidden states that are shuffled together and projected."""
        states = tower.output.last_hidden_state
        patches = states[:, -(math.isqrt(states.shape[1]) ** 2) :]  # a class token comes first, if any
        return list(torch.split(patches, [frames for frames, _, _ in grids]))

    def tower_attention_module(self, model: Any) -> nn.Module:
        """Of the last layer."""
        return cast(nn.Module, model.base_model.vision_tower.encoder.layer[-1].attention)

    def tower_attention(self, config: Any, tower: TowerCall, grids: Sequence[Grid]) -> list[Tensor]:
        """Mean over the patches that make a token."""
        assert tower.received is not None
        frames = [grid[0] for grid in grids]
        received = tower.received.view(sum(frames), -1)
        side = int(received.shape[1] ** 0.5)
        patches = received[:, -(side**2) :].view(-1, 1, side, side)
        tokens = F.avg_pool2d(patches, side // grids[0][1]).flatten(1)
        return [video.flatten() for video in torch.split(tokens, frames)]

    def vision_flops(self, config: Any, grids: Sequence[Grid]) -> int:
        """Every frame through the tower, every token through the projector."""
        return internvl_vision_flops(config, sum(frames for frames, _, _ in grids))
