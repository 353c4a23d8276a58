"""The question's words in a prompt as vLLM has it before media are put in: one placeholder a video."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from adatp.layout import build_layouts
from adatp.question import QuestionFinder


def question_words(processor: Any, prompt: Sequence[int], video_token: int, image_token: int) -> list[int]:
    """Ids of the words of the last user turn; of no prompt with videos none.

    Args:
        processor: Hugging Face's, whose chat template says where turns are.
        prompt: token ids.
        video_token: stands for a video.
        image_token: stands for an image.
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
