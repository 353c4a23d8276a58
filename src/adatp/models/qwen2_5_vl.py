"""Qwen2.5-VL and the thinker of Qwen2.5-Omni: a grid of any shape, patches merged two by two."""

from __future__ import annotations

from adatp.models.registry import register
from adatp.models.shared import WindowedPatches


@register("qwen2_5_vl", checkpoint="Qwen/Qwen2.5-VL-7B-Instruct")
@register("qwen2_5_omni_thinker", checkpoint="Qwen/Qwen2.5-Omni-7B", since=(5, 23))
class Qwen25VL(WindowedPatches):
    """All placeholders of a video are in one run. An omni model mixes audio into it, which is kept."""
