"""How large a video's frames are kept: as they are, but all of them together within a bound."""

from __future__ import annotations

import math
from typing import Any

from adatp.layout import LayoutError
from adatp.models import family_of
from adatp.session.errors import PromptError
from adatp.video import Fit

MOST_PIXELS = 1 << 27
"""Pixels that frames of a video have together if each is kept as it is: those of 64 frames of 1920 x 1080."""


def fit_for(processor: Any, config: Any) -> Fit:
    """What `read_video` is to ask before it keeps a frame.

    Frames that have more than `MOST_PIXELS` together are scaled down until they have that many, but not below
    the size that the processor scales them to.

    Args:
        processor: of the model that is shown the video.
        config: the model's.

    Returns:
        A function that raises `PromptError` where so many frames can't fit into the model's context.
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
    """Refuse frames of which already one token each is too much, before they are decoded."""
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
    """Height and width that a processor with a fixed size scales frames to; 1 where it takes any size."""
    reader = getattr(processor, "video_processor", None) or getattr(processor, "image_processor", None)
    size: Any = getattr(reader, "size", None)
    if getattr(size, "height", None) and getattr(size, "width", None):
        return int(size.height), int(size.width)
    short = getattr(size, "shortest_edge", None)
    if not short or getattr(reader, "merge_size", None):  # of these the edges are areas
        return 1, 1
    scale = short / min(height, width)
    if longest := getattr(size, "longest_edge", None):
        scale = min(scale, longest / max(height, width))
    return math.ceil(scale * height), math.ceil(scale * width)
