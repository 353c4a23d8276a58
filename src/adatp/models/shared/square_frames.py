"""Families that resize frames to one square and encode them one by one, with a tower such as SigLIP or
CLIP.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from adatp.layout import NO_CELL, Grid
from adatp.models.family import Family, TowerCall
from adatp.tower_flops import linear_flops


class SquareFrames(Family):
    """Every frame becomes a square of patches, which is pooled to a square of tokens."""

    @abstractmethod
    def side(self, config: Any) -> int:
        """Tokens on a side of a frame."""

    def grid(self, config: Any, frames: int, height: int, width: int) -> Grid:
        """The same grid for every size of frame."""
        side = self.side(config)
        return frames, side, side

    def tower(self, model: Any) -> nn.Module:
        """The ``vision_tower`` of the multimodal model."""
        return cast(nn.Module, model.base_model.vision_tower)

    def tower_attention_module(self, model: Any) -> nn.Module:
        """The attention module of the last layer."""
        return cast(nn.Module, encoder_layers(self.tower(model))[-1].self_attn)

    def features(self, config: Any, tower: TowerCall) -> Tensor:
        """(images, tokens, d) hidden states that the projector reads; a class token may come first."""
        return cast(Tensor, tower.output.last_hidden_state)

    def frame_features(self, config: Any, tower: TowerCall, grids: Sequence[Grid]) -> list[Tensor]:
        """(frames, patches, d) for each video: patches in the order of rows, without the class token."""
        patches = without_class_token(self.features(config, tower))
        return list(torch.split(patches, [frames for frames, _, _ in grids]))

    def tower_attention(self, config: Any, tower: TowerCall, grids: Sequence[Grid]) -> list[Tensor]:
        """(cells,) for each video: attention by patch, pooled by `pool`."""
        assert tower.received is not None
        frames = [grid[0] for grid in grids]
        patches = without_class_token(tower.received.view(sum(frames), -1))
        side = math.isqrt(patches.shape[1])
        tokens = self.pool(patches.view(-1, 1, side, side), grids[0][1]).flatten(1)
        return [video.flatten() for video in torch.split(tokens, frames)]

    def pool(self, patches: Tensor, side: int) -> Tensor:
        """Pool squares of patches, (frames, 1, n, n), to ``side`` x ``side`` tokens. The default takes
        means.
        """
        return F.avg_pool2d(patches, patches.shape[2] // side)


class SelectedLayer(SquareFrames):
    """LLaVA's way: two linear maps project the hidden states of layer ``config.vision_feature_layer``."""

    newlines: ClassVar[int] = 0
    """Number of placeholders after each video that show no place in it."""

    def grids(self, config: Any, call: Mapping[str, Any], tower: TowerCall | None) -> list[Grid]:
        """All videos of a batch have the same number of frames."""
        side = self.side(config)
        if call.get("pixel_values_videos") is not None:
            videos, frames = call["pixel_values_videos"].shape[:2]
        else:
            encoded = call["mm_encoder_outputs"]["video"].pooler_output
            videos, frames = len(encoded), self.frames_in(config, encoded.shape[1])
            if tower is not None:  # with several return sequences, the tower received each video once
                videos = len(tower.output.last_hidden_state) // frames
        return [(frames, side, side)] * videos

    def frames_in(self, config: Any, placeholders: int) -> int:
        """Number of frames of a video with this number of placeholders."""
        return int((placeholders - self.newlines) // self.side(config) ** 2)

    def cells(self, call: Mapping[str, Any], grids: Sequence[Grid]) -> list[Tensor] | None:
        """All cells in order, then the newlines."""
        return [torch.tensor([*range(math.prod(grid)), *[NO_CELL] * self.newlines]) for grid in grids]

    def tower_attention_module(self, model: Any) -> nn.Module:
        """The attention module of the layer that outputs the selected hidden states."""
        layer = _selected_layer(model.config)
        layers = encoder_layers(self.tower(model))
        return cast(nn.Module, layers[layer if layer < 0 else layer - 1].self_attn)

    def features(self, config: Any, tower: TowerCall) -> Tensor:
        """(images, tokens, d) selected hidden states; with several layers, those of the last."""
        return cast(Tensor, tower.output.hidden_states[_selected_layer(config)])

    def patches_a_side(self, config: Any) -> int:
        """Patches on a side of a frame, before any pooling."""
        return int(config.vision_config.image_size // config.vision_config.patch_size)

    def projector_flops(self, config: Any, tokens: int) -> int:
        """Real FLOPs of two linear maps on all projected patches or pooled tokens."""
        selected = config.vision_feature_layer
        width = config.vision_config.hidden_size * (1 if isinstance(selected, int) else len(selected))
        return linear_flops(tokens, width, config.text_config.hidden_size, config.text_config.hidden_size)


def without_class_token(states: Tensor) -> Tensor:
    """The tokens of patches in (images, tokens, ...). They make a square and come last."""
    return states[:, -(math.isqrt(states.shape[1]) ** 2) :]


def copies(frames: int, tower: TowerCall | None) -> int:
    """Number of rows of the batch per prompt.

    Several return sequences repeat every prompt, but the tower receives each video once.

    Args:
        frames: frames of the videos in all rows together.
        tower: the call that encoded them.
    """
    return max(1, frames // len(tower.output.last_hidden_state)) if tower is not None else 1


def encoder_layers(tower: Any) -> Any:
    """The layers of a SigLIP or CLIP tower."""
    tower = getattr(tower, "vision_model", tower)  # up to transformers 5.5 it is wrapped
    return tower.encoder.layers


def _selected_layer(config: Any) -> int:
    layer = config.vision_feature_layer
    return int(layer if isinstance(layer, int) else layer[-1])
