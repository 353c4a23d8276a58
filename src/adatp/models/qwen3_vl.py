"""Qwen3-VL and its mixture of experts: each temporal step a run of its own, a timestamp before it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from adatp.flops import qwen3_vision_flops
from adatp.layout import Grid
from adatp.models.qwen2_vl import Qwen2VL, in_patches


class Qwen3VL(Qwen2VL):
    """``qwen3_vl``, ``qwen3_vl_moe``. What DeepStack adds behind the first layers is left to the engine."""

    def vision_flops(self, config: Any, grids: Sequence[Grid]) -> int:
        """Full attention within a temporal step, and a merger for every level of DeepStack."""
        return qwen3_vision_flops(config.vision_config, in_patches(config, grids))
