"""LLaVA-OneVision: a square grid for each frame, pooled two by two, and one newline after each video."""

from __future__ import annotations

from adatp.models.registry import register
from adatp.models.shared import PooledAfterwards


@register("llava_onevision", checkpoint="llava-hf/llava-onevision-qwen2-7b-ov-hf")
class LlavaOnevision(PooledAfterwards):
    """The newline after a video is not a visual token and is never dropped. The tower is SigLIP."""

    newlines = 1
