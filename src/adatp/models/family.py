"""What a family file has to say about its models."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from torch import Tensor, nn

from adatp.layout import Grid, VideoLayout


@dataclass(frozen=True, eq=False)
class TowerCall:
    """The call of the vision tower that encoded a batch's videos.

    Attributes:
        kwargs: its keyword arguments.
        output: what it returned.
        received: (patches,) float32 attention that each patch received in `Family.tower_attention_module`,
            in the order in which that ran them; None if nobody asked.
    """

    kwargs: Mapping[str, Any]
    output: Any
    received: Tensor | None = None


def copies(frames: int, tower: TowerCall | None) -> int:
    """How many rows a batch has of each prompt, by the frames of all its rows.

    Of several return sequences the tower saw each video once.
    """
    return max(1, frames // len(tower.output.last_hidden_state)) if tower is not None else 1


class Family(Protocol):
    """Answers about one model family. ``call`` is the keyword arguments of the multimodal model's forward.

    Attributes:
        encoded_as: ``video``, or ``image`` where the model is given frames as if they were pictures.
    """

    encoded_as: str

    def tower(self, model: Any) -> nn.Module:
        """The vision tower, called once for all the videos of a batch."""
        ...

    def grids(self, config: Any, call: Mapping[str, Any], tower: TowerCall | None) -> list[Grid]:
        """The token grid of each encoded video."""
        ...

    def grid(self, config: Any, frames: int, height: int, width: int) -> Grid:
        """The token grid of one video of this length and size in pixels, by the config alone."""
        ...

    def layouts(
        self, config: Any, call: Mapping[str, Any], real: Tensor, grids: Sequence[Grid]
    ) -> list[VideoLayout]:
        """Where the visual tokens of each sample are; ``real``: (B, L) bool, False on padding."""
        ...

    def frame_features(self, config: Any, tower: TowerCall, grids: Sequence[Grid]) -> list[Tensor]:
        """The tower's features before the projector, (frames, patches, d) for each video."""
        ...

    def tower_attention_module(self, model: Any) -> nn.Module:
        """The attention of the tower's layer whose output is projected."""
        ...

    def tower_attention(self, config: Any, tower: TowerCall, grids: Sequence[Grid]) -> list[Tensor]:
        """``tower.received`` pooled to the grid's cells as the features are, (cells,) for each video."""
        ...

    def vision_flops(self, config: Any, grids: Sequence[Grid]) -> int:
        """Real FLOPs of encoding the videos, tower and projector."""
        ...
