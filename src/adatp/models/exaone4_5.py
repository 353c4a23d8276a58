"""EXAONE 4.5: Qwen2.5-VL's tower with fewer keys than queries, a decoder with windows."""

from __future__ import annotations

from adatp.models.registry import register
from adatp.models.shared import WindowedPatches


@register("exaone4_5", checkpoint="LGAI-EXAONE/EXAONE-4.5-33B")
class Exaone45(WindowedPatches):
    """All placeholders of a video are in one run."""
