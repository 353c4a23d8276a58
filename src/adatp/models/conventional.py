"""Families that follow transformers' conventions exactly: the general rule is all they need.

The conformance suite runs all types registered here. The cost of their vision towers is only estimated.
Methods that read a tower's attention are refused.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from adatp.models.registry import register
from adatp.models.shared import ByConvention


@register("cohere_compass", checkpoint="CohereLabs/North-Micro-Vision-Instruct")
@register("kimi_k25", checkpoint="moonshotai/Kimi-K2.6", since=(5, 24))
@register("lfm3_vl", checkpoint="LiquidAI/LFM3-VL-2B")
@register("molmo2", checkpoint="allenai/Molmo2-8B")
@register("muse_glimmer", checkpoint="meta-models/Muse-Glimmer-30B")
@register("muse_spark", checkpoint="meta-models/Muse-Spark-Open-816B-A42B")
@register("perception_lm", checkpoint="facebook/Perception-LM-1B", since=(5, 23))
class Conventional(ByConvention):
    """Runs of placeholders for frames, or one run for a video. Frames of several videos count as one
    video's.
    """


@register("minicpm_ocr", checkpoint="openbmb/MiniCPM-OCR-1.0")
@register("minicpmv4_6", checkpoint="openbmb/MiniCPM-V-4.6")
@register("minicpmv4_7", checkpoint="openbmb/MiniCPM-V-4.7-1B")
class PatchesInOneRow(Conventional):
    """The patches of all frames of a batch lie in one row: (1, channels, patch, patches x patch)."""

    joined_along: ClassVar[Mapping[str, int]] = {"pixel_values_videos": 3, "pixel_values": 3}
