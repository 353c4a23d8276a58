"""Qwen3-VL, Qwen3.5, their mixtures of experts: each temporal step a run of its own, its time before it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from adatp.flops import qwen3_vision_flops
from adatp.layout import Grid
from adatp.models.qwen2_vl import Qwen2VL, in_patches


class Qwen3VL(Qwen2VL):
    """``qwen3_vl``, ``qwen3_vl_moe``: what DeepStack adds behind the first layers is left to the engine.

    ``qwen3_5``, ``qwen3_5_moe``: no DeepStack; that most layers have linear attention is the engine's too.
    """

    def vision_flops(self, config: Any, grids: Sequence[Grid]) -> int:
        """Full attention within a temporal step, and a merger for every level of DeepStack, if any."""
        return qwen3_vision_flops(config.vision_config, in_patches(config, grids))
