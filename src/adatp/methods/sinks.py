"""Damps sink tokens (SToP, arXiv 2604.20937), for methods that rank by the tower's attention."""

from __future__ import annotations

import torch
from torch import Tensor

from adatp.errors import SettingError
from adatp.layout import VideoLayout

GAMMA = 1.1
"""The paper's exponent of a position's mean attention."""


def check_damping(sink: float) -> None:
    """Refuse a damping that is negative or not a number.

    Raises:
        SettingError: it is negative or not a number.
    """
    if not 0 <= sink < float("inf"):
        raise SettingError(f"sink is the weight of the sink score, at least 0, not {sink}")


def damped(attention: Tensor, layout: VideoLayout, sink: float) -> Tensor:
    """Attention in the tower, minus the tendency of each spatial position to attract it in every frame.

    A position's sink score is its mean attention over the frames of its video, to the power of `GAMMA`. It is
    scaled to [0, 1] over the positions of the video.

    Args:
        attention: (n,) that the sample's visual tokens receive.
        layout: layout of the sample.
        sink: weight of the sink score, the paper's mu; 0 changes nothing.

    Returns:
        (n,) float32.

    Source: SToP's official code, which does so for VisionZip, FastVID and HoliTom. Its other part, which
    keeps sink positions from becoming cluster centres, is left out.
    """
    if not sink:
        return attention
    device = attention.device
    video = layout.video.to(device)
    places = int(layout.position.max()) + 1
    place = video * places + layout.position.to(device)
    size = int(place.max()) + 1
    attention = attention.float()
    total = attention.new_zeros(size).index_add_(0, place, attention)
    count = torch.zeros_like(total).index_add_(0, place, torch.ones_like(attention))
    mean = (total / count.clamp(min=1)) ** GAMMA
    damping = torch.zeros_like(mean)
    for number in range(len(layout.grids)):
        own = slice(number * places, min((number + 1) * places, size))
        there = count[own] > 0
        if bool(there.any()):
            low, high = mean[own][there].min(), mean[own][there].max()
            damping[own] = (mean[own] - low) / (high - low).clamp(min=1e-12)
    return attention - sink * damping[place]
