"""LLaVA-OneVision: a square grid a frame, pooled two by two, and one newline behind each video."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from adatp.flops import llava_projector_flops, siglip_vision_flops
from adatp.layout import NO_CELL, Grid, VideoLayout, build_layouts
from adatp.models.family import TowerCall


class LlavaOnevision:
    """``llava_onevision``. The newline at the end of a video is no visual token and is never dropped."""

    encoded_as = "video"
    newlines = 1  # behind each video

    def tower(self, model: Any) -> nn.Module:
        """SigLIP."""
        return cast(nn.Module, model.base_model.vision_tower)

    def grids(self, config: Any, call: Mapping[str, Any], tower: TowerCall | None) -> list[Grid]:
        """All videos of a batch have the same number of frames."""
        _, side, _ = self.grid(config, 1, 0, 0)
        if call.get("pixel_values_videos") is not None:
            videos, frames = call["pixel_values_videos"].shape[:2]
        else:
            encoded = call["mm_encoder_outputs"]["video"].pooler_output
            videos, frames = len(encoded), (encoded.shape[1] - self.newlines) // side**2
            if tower is not None:  # several return sequences: the tower saw each video once
                videos = len(tower.output.last_hidden_state) // frames
        return [(frames, side, side)] * videos

    def grid(self, config: Any, frames: int, height: int, width: int) -> Grid:
        """Every frame is resized to the tower's square."""
        side = math.ceil(patches_a_side(config) / 2)
        return frames, side, side

    def layouts(
        self, config: Any, call: Mapping[str, Any], real: Tensor, grids: Sequence[Grid]
    ) -> list[VideoLayout]:
        """Placeholders in the order of the grid."""
        return build_layouts(
            call["input_ids"],
            real,
            grids,
            video_token_id=config.video_token_id,
            not_text=[config.image_token_id],
            cells=[self.cells(grid) for grid in grids],
        )

    def cells(self, grid: Grid) -> Tensor:
        """What each placeholder of a video shows: a cell, the last its newline."""
        return torch.tensor([*range(math.prod(grid)), *[NO_CELL] * self.newlines])

    def frame_features(self, config: Any, tower: TowerCall, grids: Sequence[Grid]) -> list[Tensor]:
        """The hidden states that the projector reads."""
        return list(torch.split(features_of_patches(config, tower), [frames for frames, _, _ in grids]))

    def tower_attention_module(self, model: Any) -> nn.Module:
        """Of the layer that leaves the hidden states which the projector reads."""
        tower: Any = self.tower(model)
        tower = getattr(tower, "vision_model", tower)  # transformers 5.5
        layer = _feature_layer(model.config)
        return cast(nn.Module, tower.encoder.layers[layer if layer < 0 else layer - 1].self_attn)

    def tower_attention(self, config: Any, tower: TowerCall, grids: Sequence[Grid]) -> list[Tensor]:
        """Pooled to the token grid, as the projected patches are."""
        assert tower.received is not None
        side = patches_a_side(config)
        frames = [grid[0] for grid in grids]
        patches = tower.received.view(sum(frames), -1)[:, -(side**2) :]  # a class token comes first, if any
        pooled = self.pool(patches.view(-1, 1, side, side), grids[0]).flatten(1)
        return [video.flatten() for video in torch.split(pooled, frames)]

    def pool(self, patches: Tensor, grid: Grid) -> Tensor:
        """Patches (frames, 1, rows, columns) pooled to the tokens of a grid."""
        return F.interpolate(patches, size=grid[1:], mode="bilinear")

    def vision_flops(self, config: Any, grids: Sequence[Grid]) -> int:
        """Every frame through the tower, every patch through the projector."""
        frames = sum(grid[0] for grid in grids)
        tower = siglip_vision_flops(config.vision_config, frames)
        return tower + llava_projector_flops(config, frames * patches_a_side(config) ** 2)


def patches_a_side(config: Any) -> int:
    """Of a frame, which is a square."""
    return int(config.vision_config.image_size // config.vision_config.patch_size)


def features_of_patches(config: Any, tower: TowerCall) -> Tensor:
    """(images, patches, d) hidden states that the projector reads, without the class token."""
    states = tower.output.hidden_states[_feature_layer(config)]
    return cast(Tensor, states[:, -(patches_a_side(config) ** 2) :])


def _feature_layer(config: Any) -> int:
    layer = config.vision_feature_layer
    return int(layer if isinstance(layer, int) else layer[-1])
