"""Handles temporal steps at uneven distances, for models that place them in time by rotary position."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from typing import Any, cast

import torch
from torch import Tensor

from adatp.models.family import Times

_MEAN, _SAME = "second_per_grid_ts", "video_second_per_grid"


def place_steps(config: Any, inputs: Mapping[str, Any], times: Sequence[Times]) -> dict[str, Any]:
    """A processor's inputs with the distances of temporal steps in seconds, where a model takes them.

    Processors of Qwen2.5-VL give the mean distance of each video's steps. Those of the omni models give the
    same for every video.

    Args:
        config: the model's config.
        inputs: the processor's output for one prompt.
        times: (frames,) for each video.
    """
    inputs, vision = dict(inputs), getattr(config, "vision_config", None)
    every = getattr(vision, "temporal_patch_size", 1)
    steps = [time[::every] for time in times]
    if inputs.get(_MEAN) is not None:
        rate = cast(Any, vision).tokens_per_second
        inputs[_MEAN] = step_distances(inputs[_MEAN], steps, rate)
    if inputs.get(_SAME) is not None:
        means = [every * float(time[-1] - time[0]) / max(1, len(time) - 1) or 1.0 for time in times]
        inputs[_SAME] = step_distances(
            torch.tensor(means, dtype=torch.float32), steps, config.position_id_per_seconds
        )
    return inputs


def step_distances(mean: Tensor, steps: Sequence[Times], positions_a_second: float) -> Tensor:
    """Seconds per step number, so that each step is at its own time.

    If one distance places no step of any video wrong by more than a position, one is kept. Otherwise every
    step has its own distance from the first. Older transformers don't accept that, nor several videos of
    different lengths. There the mean distance stays.

    Args:
        mean: (videos,) the mean distances, seconds.
        steps: for each video the seconds at which its steps begin.
        positions_a_second: rotary positions per second.

    Returns:
        (videos,) or (videos, steps).
    """
    if len({len(each) for each in steps}) > 1 or not _takes_each():
        return mean
    number = torch.arange(len(steps[0]))
    own = torch.stack([torch.from_numpy(each - each[0]) for each in steps]) * positions_a_second
    even = number * mean[:, None] * positions_a_second
    if (own.floor() - even.floor()).abs().max() <= 1:
        return mean
    # Slightly more, since models round down to integers: rounding must not give the position before.
    seconds: Tensor = (own + 0.02) / positions_a_second
    return (seconds / number.clamp(min=1)).float()


def _takes_each() -> bool:
    """Whether transformers multiplies step numbers by the exact distance, not by one rounded number."""
    from transformers import Qwen2_5_VLModel

    interval = inspect.signature(Qwen2_5_VLModel.get_vision_position_ids).parameters["time_interval"]
    return isinstance(interval.default, float)
