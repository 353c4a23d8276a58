"""What processors of single families want to be asked.

Everything in this file belongs into the families' own files, once a family can say it there.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from adatp.video import Video


def knows_videos(processor: Any) -> bool:
    """Whether the processor takes videos; if not (Gemma 3), it is given their frames as images."""
    return getattr(processor, "video_processor", None) is not None


def processor_options(
    processor: Any, text: str, videos: Sequence[Video], *, every_token: bool
) -> dict[str, Any]:
    """Keywords of a processor's call beside its text, videos and images.

    Args:
        processor: the checkpoint's processor.
        text: the prompt, out of the chat template.
        videos: those of the prompt.
        every_token: whether the processor has to keep tokens that it would leave out (VideoLLaMA3).
    """
    options: dict[str, Any] = {}
    if videos and knows_videos(processor):
        # Qwen-VL and others place frames in time by their rate: that of the sample, not of the file.
        options |= {"do_sample_frames": False, "video_metadata": [_metadata(video) for video in videos]}
        if every_token and hasattr(processor.video_processor, "use_token_compression"):
            options["use_token_compression"] = False
    begin = getattr(processor.tokenizer, "bos_token", None)
    if begin and text.startswith(begin):  # the template's; the tokenizer would add another
        options["add_special_tokens"] = False
    return options


def _metadata(video: Video) -> dict[str, Any]:
    frames = len(video.frames)
    return {
        "total_num_frames": frames,
        "frames_indices": list(range(frames)),
        "fps": frames / video.duration if video.duration else None,
        "duration": video.duration,
    }
