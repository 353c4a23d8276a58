"""LLaVA-Video, once converted: LLaVA-OneVision with a newline after every row of every frame."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from adatp.layout import NO_CELL, Grid
from adatp.models.registry import register
from adatp.models.shared import PooledAfterwards


@register("llava_video", checkpoint="lmms-lab/LLaVA-Video-7B-Qwen2", since=(5, 18))
class LlavaVideo(PooledAfterwards):
    """Newlines are not visual tokens and are never dropped. `adatp convert` makes the checkpoints."""

    def register_classes(self) -> None:
        """Register our classes, since transformers has none."""
        from adatp.models.converted.llava_video import register_with_transformers

        register_with_transformers()

    def frames_in(self, config: Any, placeholders: int) -> int:
        """Each row of a frame has a newline too."""
        side = self.side(config)
        return placeholders // (side * (side + 1))

    def cells(self, call: Mapping[str, Any], grids: Sequence[Grid]) -> list[Tensor]:
        """The cells of each row, then a newline."""
        found = []
        for frames, rows, columns in grids:
            shown = torch.arange(frames * rows * columns).view(-1, columns)
            found.append(torch.cat([shown, torch.full((len(shown), 1), NO_CELL)], 1).flatten())
        return found
