"""Reads the videos of a call as a model's own method encoded them: tokens, one tensor per part."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from adatp.layout import NO_CELL
from adatp.models.family import TowerCall


@dataclass(frozen=True)
class Encoded:
    """The encoded videos of a batch, before any prompt is read.

    Attributes:
        parts: tokens of each part, (n, d): a part is a video, or one of its frames.
        thw: (V, 3) int64, temporal steps, rows and columns of each video in patches; None: not given.
        frames: number of frames of each video; None: not given.
        size: height and width of a frame in pixels or patches, or (0, 0).
        newline: (d,) the embedding of placeholders that show no place in a video; None: the model has none.
    """

    parts: Sequence[Tensor]
    thw: Tensor | None
    frames: Sequence[int] | None
    size: tuple[int, int]
    newline: Tensor | None = None

    @classmethod
    def of(cls, tower: TowerCall, newline: Tensor | None = None) -> Encoded:
        """Read a watched call: integer tensors by their names, the shape of the pixels, the output.

        Args:
            tower: the call.
            newline: (d,) see the class.
        """
        thw = _integers(tower.kwargs, ("grid_thw", "grids"), 2)
        counts = _integers(tower.kwargs, ("frames",), 1)
        frames = None if counts is None else counts.tolist()
        shapes = [shape for name, shape in tower.shapes.items() if "pixel_values" in name]
        shape = max(shapes, key=len, default=())
        size = (shape[-2], shape[-1]) if len(shape) >= 4 else (0, 0)
        if (sizes := _integers(tower.kwargs, ("sizes",), 2)) is not None:  # of frames cut into patches
            size = (int(sizes[0][0]), int(sizes[0][1]))
        if frames is None and len(shape) == 5:  # videos, frames, channels, height, width
            frames = [shape[1]] * shape[0]
        if thw is not None and thw.shape[1] != 3:
            thw = None
        return cls(parts_of(tower.output), thw, frames, size, newline)

    @property
    def tokens(self) -> int:
        """Total number of encoded tokens."""
        return sum(map(len, self.parts))

    @cached_property
    def places(self) -> list[Tensor]:
        """(n,) bool per part: whether each token shows a place. Newlines do not."""
        if self.newline is None:
            return [torch.ones(len(part), dtype=torch.bool) for part in self.parts]
        return [(part != self.newline.to(part)).any(1).cpu() for part in self.parts]

    @cached_property
    def shown(self) -> list[int]:
        """Number of tokens of each part that show a place."""
        return [int(part.sum()) for part in self.places]

    def cells(self) -> list[Tensor] | None:
        """(n,) int64 per part: the grid cell that each placeholder shows (see `Family.cells`). None: all,
        in order.
        """
        if sum(self.shown) == self.tokens:
            return None
        return [(part.cumsum(0) - 1).masked_fill(~part, NO_CELL) for part in self.places]

    def features(self) -> Tensor:
        """(tokens, d) all tokens that show a place."""
        return torch.cat(
            [part[where.to(part.device)] for part, where in zip(self.parts, self.places, strict=True)]
        )


def parts_of(output: Any) -> list[Tensor]:
    """The tokens (n, d) of each part, from any form of return value."""
    pooled = getattr(output, "pooler_output", output)
    if isinstance(pooled, Tensor):
        pooled = pooled[None] if pooled.ndim == 2 else pooled
    return [part.flatten(0, -2) if part.ndim > 1 else part[None] for part in pooled]


def _integers(given: Mapping[str, Any], endings: Sequence[str], dimensions: int) -> Tensor | None:
    """The integer tensor whose name has one of these words, if there is exactly one."""
    found = [
        value.cpu()
        for name, value in given.items()
        if isinstance(value, Tensor) and value.ndim == dimensions and any(word in name for word in endings)
    ]
    return found[0] if len(found) == 1 else None
