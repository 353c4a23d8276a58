"""Measures the second model: accuracy by question type, the partner's ranking, still backgrounds."""

from __future__ import annotations

from collections import defaultdict
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from transformers import LlavaOnevisionForConditionalGeneration, SiglipModel

from adatp.scenes import benchmark, evidence, make_clip
from training.scenes.data import token_labels
from training.scenes.losses import normal_pixels, visual_tokens
from training.scenes.model import TEXT_LENGTH


@torch.no_grad()
def validate(
    model: LlavaOnevisionForConditionalGeneration,
    processor: Any,
    split: str,
    n_frames: int,
    n: int,
    blind: bool = False,
) -> dict[str, float]:
    """Accuracy on balanced questions, one a clip, by the model's own forward pass.

    Args:
        model: The Video LLM, with an attention implementation of transformers' own.
        processor: Its processor.
        split: A split of the world.
        n_frames: F of the clips.
        n: Questions.
        blind: Whether to show black frames instead, to learn what the questions alone give away.

    Returns:
        "all" and each question type -> accuracy in 0..1.
    """
    right: dict[str, list[bool]] = defaultdict(list)
    for seed, question in benchmark(split, n_frames, n):
        frames = make_clip(seed, n_frames, split).frames
        content = [{"type": "video"}, {"type": "text", "text": question.text}]
        prompt = processor.apply_chat_template(
            [{"role": "user", "content": content}], add_generation_prompt=True
        )
        inputs = processor(text=prompt, videos=np.zeros_like(frames) if blind else frames).to(model.device)
        with torch.autocast(model.device.type, torch.bfloat16):
            word = int(model(**inputs, logits_to_keep=1).logits[0, -1].argmax())
        right[question.kind].append(processor.tokenizer.convert_ids_to_tokens(word) == question.answer)
    every = [hit for hits in right.values() for hit in hits]
    means = {kind: round(float(np.mean(hits)), 4) for kind, hits in right.items()}
    return {"all": round(float(np.mean(every)), 4), **means}


@torch.no_grad()
def background_cosine(
    model: LlavaOnevisionForConditionalGeneration, split: str, n_frames: int, n: int
) -> dict[str, float]:
    """By camera: cosine of projected background tokens to the same position in the frame before."""
    found: dict[str, list[float]] = defaultdict(list)
    for seed in range(n):
        clip = make_clip(seed, n_frames, split)
        tokens = visual_tokens(model, normal_pixels(torch.from_numpy(clip.frames).to(model.device))).float()
        cosine = F.cosine_similarity(tokens[1:], tokens[:-1], dim=-1).cpu().numpy()
        empty = token_labels(clip).colour == 0
        for scene in clip.scenes:
            inside = slice(scene.start + scene.fade, scene.stop - 1)
            both = empty[1:][inside] & empty[:-1][inside]
            found[scene.camera] += cosine[inside][both].tolist()
    return {camera: round(float(np.mean(values)), 4) for camera, values in sorted(found.items()) if values}


@torch.no_grad()
def relevance_auc(partner: SiglipModel, processor: Any, n_frames: int, n: int) -> dict[str, float]:
    """How well the partner separates frames with a question's evidence from the others.

    Returns:
        "all" and each question type -> area under the ROC curve in 0..1, mean over those of n questions
        that have frames of both kinds; 0.5 is chance.
    """
    areas: dict[str, list[float]] = defaultdict(list)
    for seed, question in benchmark("validation", n_frames, n):
        clip = make_clip(seed, n_frames, "validation")
        shown = torch.from_numpy(evidence(clip, question).any(1))
        if shown.all() or not shown.any():
            continue
        text = processor.tokenizer(
            question.text, padding="max_length", max_length=TEXT_LENGTH, return_tensors="pt"
        )
        pixels = normal_pixels(torch.from_numpy(clip.frames).to(partner.device))
        image = partner.vision_model(pixels).pooler_output
        words = partner.text_model(text["input_ids"].to(partner.device)).pooler_output
        cosine = F.cosine_similarity(image, words).cpu()
        area = (cosine[shown][:, None] > cosine[~shown]).float().mean().item()
        areas[question.kind].append(area)
        areas["all"].append(area)
    return {kind: round(float(np.mean(values)), 4) for kind, values in areas.items()}
