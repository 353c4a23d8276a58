"""Gemma 4: frames of any size, pooled three by three, a run of placeholders and a timestamp for each."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor
from typing_extensions import override

from adatp.layout import Grid
from adatp.models.family import TowerCall
from adatp.models.registry import register
from adatp.models.shared import ByConvention


@register("gemma4", checkpoint="google/gemma-4-31B-it")
class Gemma4(ByConvention):
    """Its largest models. Small ones, whose last layers share the keys of earlier ones, are refused."""

    attention = "vision_tower.encoder.layers.-1.self_attn"

    @override
    def tower_attention(self, config: Any, tower: TowerCall, grids: Sequence[Grid]) -> list[Tensor]:
        """The mean over the patches of a token. Frames are padded to the same number of patches."""
        assert tower.received is not None
        side, places = config.vision_config.pooling_kernel_size, tower.kwargs["video_position_ids"]
        received, found = tower.received.view(len(places), -1), []
        first = 0
        for frames, rows, columns in grids:
            patches = received[first : first + frames, : rows * columns * side**2]
            split = patches.reshape(frames, rows, side, columns, side)
            found.append(split.mean((2, 4)).flatten())
            first += frames
        return found
