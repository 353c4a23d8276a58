"""Finds the question's words in a prompt before vLLM inserts media: one placeholder per video."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from adatp.layout import build_layouts
from adatp.question import QuestionFinder


def question_words(processor: Any, prompt: Sequence[int], video_token: int, image_token: int) -> list[int]:
    """Ids of the words of the last user turn; empty for a prompt without videos.

    Args:
        processor: Hugging Face's processor, whose chat template marks the turns.
        prompt: token ids.
        video_token: the placeholder of a video.
        image_token: the placeholder of an image.
    """
    ids = torch.tensor([list(prompt)], dtype=torch.int64)
    videos = int((ids == video_token).sum())
    finder = QuestionFinder.of(processor)
    if not videos or finder is None:
        return []
    (layout,) = build_layouts(
        ids,
        torch.ones_like(ids, dtype=torch.bool),
        [(1, 1, 1)] * videos,
        video_token_id=video_token,
        not_text=[image_token],
    )
    found: list[int] = ids[0, finder.positions(layout, ids[0])].tolist()
    return found
