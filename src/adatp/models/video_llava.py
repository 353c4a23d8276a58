"""Video-LLaVA: every patch of a frame is a token, and so is the frame's class token."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn

from adatp.layout import NO_CELL, Grid, runs
from adatp.models.family import TowerCall
from adatp.models.registry import register
from adatp.models.shared import SelectedLayer
from adatp.models.shared.square_frames import copies
from adatp.tower_flops import image_tower_flops


@register("video_llava", checkpoint="LanguageBind/Video-LLaVA-7B-hf")
class VideoLlava(SelectedLayer):
    """A frame's class token shows no place in it, so it is not a visual token and is never dropped."""

    def tower(self, model: Any) -> nn.Module:
        """The CLIP tower for videos; images have another one."""
        return cast(nn.Module, model.base_model.video_tower)

    def side(self, config: Any) -> int:
        """Tokens on a side of a frame, without pooling."""
        return self.patches_a_side(config)

    def grids(self, config: Any, call: Mapping[str, Any], tower: TowerCall | None) -> list[Grid]:
        """One video per run of placeholders, since the tower's output does not mark their ends."""
        side = self.side(config)
        lengths = runs(call["input_ids"], config.video_token_id)
        frames = [[length // (side**2 + 1) for length in row] for row in lengths]
        return [
            (count, side, side) for row in frames[:: copies(sum(map(sum, frames)), tower)] for count in row
        ]

    def cells(self, call: Mapping[str, Any], grids: Sequence[Grid]) -> list[Tensor]:
        """In each frame, the class token first."""
        cells = []
        for frames, rows, columns in grids:
            shown = torch.arange(frames * rows * columns).view(frames, -1)
            cells.append(torch.cat([torch.full((frames, 1), NO_CELL), shown], 1).flatten())
        return cells

    def vision_flops(self, config: Any, grids: Sequence[Grid]) -> int:
        """All patches and the class token are projected."""
        tokens = sum(frames * (rows * columns + 1) for frames, rows, columns in grids)
        frames = sum(grid[0] for grid in grids)
        tower = image_tower_flops(config.vision_config, frames, class_token=True)
        return tower + self.projector_flops(config, tokens)
