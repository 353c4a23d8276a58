"""Qwen2.5-VL and the thinker of Qwen2.5-Omni: a grid of any shape, patches merged two by two."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from adatp.models.family import Times
from adatp.models.registry import register
from adatp.models.shared import WindowedPatches
from adatp.models.shared.step_times import step_distances


@register("qwen2_5_vl", checkpoint="Qwen/Qwen2.5-VL-7B-Instruct")
@register("qwen2_5_omni_thinker", checkpoint="Qwen/Qwen2.5-Omni-7B")
class Qwen25VL(WindowedPatches):
    """All placeholders of a video stand in one run. An omni model has its audio among them, which is kept."""

    def place_in_time(self, config: Any, inputs: Mapping[str, Any], times: Sequence[Times]) -> dict[str, Any]:
        """The processor says one distance of steps for each video."""
        inputs, mean, vision = dict(inputs), inputs.get("second_per_grid_ts"), config.vision_config
        steps = [time[:: vision.temporal_patch_size] for time in times]
        if mean is not None:
            inputs["second_per_grid_ts"] = step_distances(mean, steps, vision.tokens_per_second)
        return inputs
