"""Families with frames of any size: patches are packed into one sequence and merged, usually two by two."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn

from adatp.layout import Grid, LayoutError
from adatp.models.family import Family, Times, TowerCall
from adatp.models.shared.step_times import place_steps


class PatchGrid(Family):
    """The processor gives the grid of each video: (temporal steps, rows, columns) in patches.

    A frame of the layout is one temporal step, which may merge several frames of the video.
    """

    def tower(self, model: Any) -> nn.Module:
        """The multimodal model's ``visual``, merger included."""
        return cast(nn.Module, model.base_model.visual)

    def tower_attention_module(self, model: Any) -> nn.Module:
        """The attention module of the last block, which attends within a temporal step."""
        return cast(nn.Module, model.base_model.visual.blocks[-1].attn)

    def merge(self, config: Any) -> int:
        """Number of patches on a side of a token."""
        return int(config.vision_config.spatial_merge_size)

    def grid(self, config: Any, frames: int, height: int, width: int) -> Grid:
        """Frames keep their size, rounded to tokens."""
        vision = config.vision_config
        side = vision.patch_size * self.merge(config)
        rows, columns = (max(1, round(length / side)) for length in (height, width))
        return -(-frames // getattr(vision, "temporal_patch_size", 1)), rows, columns

    def grids(self, config: Any, call: Mapping[str, Any], tower: TowerCall | None) -> list[Grid]:
        """The grids that the tower received: ``generate`` does not pass them on to the decoder's call."""
        thw = tower.kwargs.get("grid_thw") if tower is not None else call.get("video_grid_thw")
        if thw is None:
            raise LayoutError(
                "the videos' grids are not known: pass video_grid_thw, or encode inside the context"
            )
        merge = self.merge(config)
        return [(t, h // merge, w // merge) for t, h, w in thw.tolist()]

    def in_patches(self, config: Any, grids: Sequence[Grid]) -> list[Grid]:
        """Convert grids of tokens to grids of patches."""
        merge = self.merge(config)
        return [(t, h * merge, w * merge) for t, h, w in grids]

    def place_in_time(self, config: Any, inputs: Mapping[str, Any], times: Sequence[Times]) -> dict[str, Any]:
        """Give steps their own times, for a model that takes their distances."""
        return place_steps(config, inputs, times)

    def frame_features(self, config: Any, tower: TowerCall, grids: Sequence[Grid]) -> list[Tensor]:
        """(frames, patches, d) hidden states before the merger. The patches of a token are neighbours."""
        return split_frames(tower.output.last_hidden_state, grids, self.merge(config) ** 2)

    def tower_attention(self, config: Any, tower: TowerCall, grids: Sequence[Grid]) -> list[Tensor]:
        """(cells,) for each video: the mean over a token's patches, which are neighbours."""
        assert tower.received is not None
        merged = tower.received.view(-1, self.merge(config) ** 2).mean(1)
        return list(torch.split(merged, [t * h * w for t, h, w in grids]))


def split_frames(states: Tensor, grids: Sequence[Grid], rows_a_token: int = 1) -> list[Tensor]:
    """Packed hidden states (rows, d) as (frames, rows of a frame, d) for each video.

    Args:
        states: the videos' rows, one video after the other, frame by frame.
        grids: (frames, rows, columns) of each video in tokens.
        rows_a_token: hidden states of each token: the patches that will be merged to it.
    """
    videos = torch.split(states, [math.prod(grid) * rows_a_token for grid in grids])
    return [video.reshape(grid[0], -1, video.shape[1]) for video, grid in zip(videos, grids, strict=True)]
