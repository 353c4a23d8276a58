"""Gemma 4: frames of any size, with a run of placeholders and a timestamp per frame."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor
from typing_extensions import override

from adatp.layout import Grid
from adatp.models.family import TowerCall
from adatp.models.registry import register
from adatp.models.shared import ByConvention


@register("gemma4_unified", checkpoint="google/gemma-4-12B-it")
class Gemma4Unified(ByConvention):
    """It has no tower: patches are projected. The processor gives the place of each patch of a frame."""

    def pooled(self, config: Any) -> int:
        """Patches on a side of a token."""
        return 1

    @override
    def grids(self, config: Any, call: Mapping[str, Any], tower: TowerCall | None) -> list[Grid]:
        """The rule's grids, with rows and columns from the places of the patches."""
        derived, side = super().grids(config, call, tower), self.pooled(config)
        places = (call if tower is None else tower.kwargs).get("video_position_ids")
        frames = [grid[0] for grid in derived]
        if places is None or sum(frames) != len(places):
            return derived
        first = 0
        for number, count in enumerate(frames):
            columns, rows = ((places[first].amax(0) + 1) // side).tolist()
            if rows * columns == derived[number][1] * derived[number][2]:
                derived[number] = (count, rows, columns)
            first += count
        return derived


@register("gemma4", checkpoint="google/gemma-4-31B-it", since=(5, 23))
class Gemma4(Gemma4Unified):
    """The largest models. Small ones are refused, since their last layers share the keys of earlier ones."""

    attention = "vision_tower.encoder.layers.-1.self_attn"

    @override
    def pooled(self, config: Any) -> int:
        return int(config.vision_config.pooling_kernel_size)

    @override
    def tower_attention(self, config: Any, tower: TowerCall, grids: Sequence[Grid]) -> list[Tensor]:
        """The mean over a token's patches. Frames are padded to the same number of patches."""
        assert tower.received is not None
        side = self.pooled(config)
        received, found = tower.received.view(len(tower.kwargs["video_position_ids"]), -1), []
        first = 0
        for frames, rows, columns in grids:
            patches = received[first : first + frames, : rows * columns * side**2]
            found.append(patches.reshape(frames, rows, side, columns, side).mean((2, 4)).flatten())
            first += frames
        return found
