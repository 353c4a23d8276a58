"""Temporal steps at uneven distances, for models that place them in time by their rotary position."""

from __future__ import annotations

import inspect
from collections.abc import Sequence

import torch
from torch import Tensor

from adatp.models.family import Times


def step_distances(mean: Tensor, steps: Sequence[Times], positions_a_second: float) -> Tensor:
    """Seconds that a model multiplies the number of a step by, so that each stands at its own time.

    Where one distance places no step of any video wrong by more than a position, it stays one. Otherwise
    every step has its own distance from the first. Older transformers don't take that, nor several videos of
    different lengths; there the mean distance stays.

    Args:
        mean: (videos,) the mean distances, seconds.
        steps: for each video the seconds at which its steps begin.
        positions_a_second: rotary positions.

    Returns:
        (videos,) or (videos, steps).
    """
    if len({len(each) for each in steps}) > 1 or not _takes_each():
        return mean
    number = torch.arange(len(steps[0]))
    own = (torch.stack([torch.from_numpy(each - each[0]) for each in steps]) * positions_a_second).floor()
    even = (number * mean[:, None] * positions_a_second).floor()
    if (own - even).abs().max() <= 1:
        return mean
    # The middle of a position: no rounding leads into the next.
    seconds: Tensor = (own + 0.5) / positions_a_second
    return (seconds / number.clamp(min=1)).float()


def _takes_each() -> bool:
    """Whether transformers multiplies step numbers by the distance as it is, not by one rounded number."""
    from transformers import Qwen2_5_VLModel

    interval = inspect.signature(Qwen2_5_VLModel.get_vision_position_ids).parameters["time_interval"]
    return isinstance(interval.default, float)
