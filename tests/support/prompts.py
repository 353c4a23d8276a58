"""Prompts and frames as a caller hands them to a real processor."""

from __future__ import annotations

from typing import Any

import numpy as np


def prompt(processor: Any, *content: str) -> str:
    """A question in the chat template; ``video`` and ``image`` stand for one each."""
    parts = [
        {"type": part} if part in ("video", "image") else {"type": "text", "text": part} for part in content
    ]
    return processor.apply_chat_template([{"role": "user", "content": parts}], add_generation_prompt=True)


def frames(count: int, height: int = 24, width: int = 40, seed: int = 0) -> np.ndarray:
    """Noise, (count, height, width, 3) uint8."""
    return np.random.default_rng(seed).integers(0, 255, (count, height, width, 3), dtype=np.uint8)


def sampled(*counts: int) -> dict[str, Any]:
    """What a caller who sampled the frames, two a second, tells a processor."""
    metadata = [
        {"total_num_frames": n, "frames_indices": list(range(n)), "fps": 2.0, "duration": n / 2}
        for n in counts
    ]
    return {"do_sample_frames": False, "video_metadata": metadata}


def asked(processor: Any, questions: list[str], videos: list[np.ndarray], **options: Any) -> Any:
    """What the processor makes of prompts with a video and a question each."""
    shown, given = ["video"], {"videos": videos, **sampled(*map(len, videos))}
    if getattr(processor, "video_processor", None) is None:  # it takes images only
        shown, given = ["image"] * len(videos[0]), {"images": [list(video) for video in videos]}
    text = [prompt(processor, *shown, question) for question in questions]
    return processor(text=text, padding=True, return_tensors="pt", **given, **options)
