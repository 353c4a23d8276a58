"""Accuracy of the model on balanced questions, by its own forward pass."""

from __future__ import annotations

from collections import defaultdict

import numpy as np
import torch
from transformers import LlavaOnevisionForConditionalGeneration

from adatp.tiny.processor import TinyProcessor
from adatp.tiny.world import benchmark, make_clip


def prompt(processor: TinyProcessor, question: str) -> str:
    """The prompt of one question on one video."""
    content = [{"type": "video"}, {"type": "text", "text": question}]
    text = processor.apply_chat_template([{"role": "user", "content": content}], add_generation_prompt=True)
    return str(text)


@torch.no_grad()
def validate(
    model: LlavaOnevisionForConditionalGeneration,
    processor: TinyProcessor,
    split: str,
    n_frames: int,
    n: int,
    batch_size: int = 16,
    blind: bool = False,
) -> dict[str, float]:
    """Accuracy on balanced questions, over all and per type, by the model's own forward pass.

    Args:
        model: The Video LLM.
        processor: Its processor.
        split: A split of the world.
        n_frames: F of the clips.
        n: Questions.
        batch_size: Clips a pass.
        blind: Show black frames instead, to see what the questions alone give away.

    Returns:
        "all" and each question type -> accuracy in 0..1.
    """
    questions = list(benchmark(split, n_frames, n))
    right: dict[str, list[bool]] = defaultdict(list)
    for at in range(0, n, batch_size):
        chunk = questions[at : at + batch_size]
        videos = [make_clip(seed, n_frames, split).frames for seed, _ in chunk]
        inputs = processor(
            text=[prompt(processor, question.text) for _, question in chunk],
            videos=[np.zeros_like(video) for video in videos] if blind else videos,
        ).to(model.device)
        logits = model(**inputs, logits_to_keep=1).logits[:, -1]
        for (_, question), word in zip(chunk, logits.argmax(-1).tolist(), strict=True):
            right[question.kind].append(processor.tokenizer.convert_ids_to_tokens(word) == question.answer)
    every = [hit for hits in right.values() for hit in hits]
    return {"all": float(np.mean(every)), **{kind: float(np.mean(hits)) for kind, hits in right.items()}}
