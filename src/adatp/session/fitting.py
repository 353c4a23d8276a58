"""Decides at which size a video's frames are kept: unchanged, unless all together exceed a bound."""

from __future__ import annotations

import math
from typing import Any

from adatp.layout import LayoutError
from adatp.models import family_of
from adatp.session.errors import PromptError
from adatp.video import Fit

MOST_PIXELS = 1 << 27
"""Most pixels of all frames of a video that are kept unchanged: those of 64 frames of 1920 x 1080."""


def fit_for(processor: Any, config: Any) -> Fit:
    """The function that `read_video` calls before it keeps a frame.

    If frames have more than `MOST_PIXELS` together, they are scaled down to that many, but not below the size
    that the processor scales them to.

    Args:
        processor: processor of the model.
        config: config of the model.

    Returns:
        A function that raises `PromptError` if this number of frames can't fit into the model's context.
    """

    def fit(frames: int, height: int, width: int) -> tuple[int, int]:
        _check_context(processor, config, frames)
        scale = math.sqrt(MOST_PIXELS / (frames * height * width))
        if scale >= 1:
            return height, width
        rows, columns = _scaled_to(processor, height, width)
        return max(int(scale * height), min(rows, height)), max(int(scale * width), min(columns, width))

    return fit


def _check_context(processor: Any, config: Any, frames: int) -> None:
    """Refuse frames before they are decoded, if even one token per frame is too much."""
    if getattr(getattr(processor, "video_processor", None), "use_token_compression", False):
        return
    try:
        tokens = math.prod(family_of(config.model_type).grid(config, frames, 1, 1))
    except LayoutError:  # the general rule may learn it from the prompt alone, which is checked as well
        return
    longest = config.get_text_config().max_position_embeddings
    if tokens > longest:
        raise PromptError(
            f"{frames} frames have {tokens} tokens or more, but the model takes {longest}: "
            "ask for fewer frames"
        )


def _scaled_to(processor: Any, height: int, width: int) -> tuple[int, int]:
    """Height and width that a processor with a fixed size scales frames to; 1 if it takes any size."""
    reader = getattr(processor, "video_processor", None) or getattr(processor, "image_processor", None)
    size: Any = getattr(reader, "size", None)
    if getattr(size, "height", None) and getattr(size, "width", None):
        return int(size.height), int(size.width)
    short = getattr(size, "shortest_edge", None)
    if not short or getattr(reader, "merge_size", None):  # for these the edges are areas
        return 1, 1
    scale = short / min(height, width)
    if longest := getattr(size, "longest_edge", None):
        scale = min(scale, longest / max(height, width))
    return math.ceil(scale * height), math.ceil(scale * width)
