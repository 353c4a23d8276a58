"""DeepStack: visual features that some decoders add to the visual tokens after each of the first layers."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from adatp.engine.rows import FILLER


class DeepStack:
    """The features of one call, added to those of the visual tokens that are left.

    Args:
        visual: (B, L) bool, the tokens that they are added to.
        features: per layer, (tokens, d), the batch's rows side by side.
    """

    def __init__(self, visual: Tensor, features: Sequence[Tensor]) -> None:
        self.row = (visual.flatten().cumsum(0) - 1).view_as(visual).where(visual, FILLER)
        self.features = features

    def add(self, layer: int, states: Tensor, index: Tensor | None) -> Tensor:
        """Add ``layer``'s features to its output states (B, n, d) at the positions ``index`` (None: all)."""
        if layer >= len(self.features):
            return states
        row = self.row
        if index is not None:
            row = row.gather(1, index.clamp(min=0).to(row.device))  # fillers are never read
        row = row.to(states.device)
        features = self.features[layer].to(states.device, states.dtype)
        return torch.where(row[..., None] >= 0, states + features[row.clamp(min=0)], states)
