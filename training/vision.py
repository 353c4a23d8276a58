"""The vision stage: batches of single frames with texts about them, and their loss."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from transformers import LlavaOnevisionForConditionalGeneration, SiglipModel

from adatp.tiny.processor import TinyProcessor, pixel_values
from adatp.tiny.sizes import TEXT_LENGTH
from adatp.tiny.world import COLOURS, CORNERS, SHAPES, Description, ask, evidence, make_clip, make_crowd
from training.labels import cell_labels, frame_things


@dataclass
class VisionBatch:
    """Frames (N, 3, 96, 96), texts (M), which match: bool (M, N); token labels (3, N, 36)."""

    pixels: torch.Tensor
    texts: list[str]
    match: torch.Tensor
    labels: torch.Tensor


def vision_batch(seed: int, n_clips: int = 25, n_frames: int = 6) -> VisionBatch:
    """Single frames and texts about them: of five clips three are crowds, two give a pair of frames."""
    rng = np.random.default_rng((1, seed))
    clips, picks = [], []
    for i in range(n_clips):
        crowd = i % 5 < 3
        number = seed * n_clips + i
        clips.append(make_crowd(number) if crowd else make_clip(number, n_frames))
        picks.append(rng.choice(len(clips[-1].frames), 1 if crowd else 2, replace=False))
    texts: list[tuple[str, tuple[Description, ...]]] = []
    for i, clip in enumerate(clips):
        texts += [(q.text, q.about) for q in ask(clip, seed * n_clips + i, 3)]
        thing = clip.things[int(rng.integers(len(clip.things)))]
        texts.append((f"a {thing.colour} {thing.shape}", ((thing.colour, thing.shape),)))
    match = [
        np.concatenate([evidence(clip, about)[pick] for clip, pick in zip(clips, picks, strict=True)])
        for _, about in texts
    ]
    frames = np.concatenate([clip.frames[pick] for clip, pick in zip(clips, picks, strict=True)])
    labels = [
        cell_labels(frame_things(c, int(t))) for c, pick in zip(clips, picks, strict=True) for t in pick
    ]
    return VisionBatch(
        pixel_values(frames),
        [text for text, _ in texts],
        torch.from_numpy(np.stack(match)),
        torch.from_numpy(np.stack(labels, axis=1)),
    )


def vision_loss(
    batch: VisionBatch,
    relevance: SiglipModel,
    model: LlavaOnevisionForConditionalGeneration,
    processor: TinyProcessor,
) -> tuple[torch.Tensor, dict[str, list[float]]]:
    """Sigmoid matching loss plus naming loss, and the step's accuracies."""
    device = relevance.device
    frames = relevance.vision_model(batch.pixels.to(device), output_hidden_states=True)
    text = processor.tokenizer(
        batch.texts, padding="max_length", max_length=TEXT_LENGTH, truncation=True, return_tensors="pt"
    )
    texts = relevance.text_model(text["input_ids"].to(device)).pooler_output
    cosine = F.normalize(texts.float(), dim=-1) @ F.normalize(frames.pooler_output.float(), dim=-1).T
    logits = cosine * relevance.logit_scale.exp() + relevance.logit_bias
    match = batch.match.to(device)
    loss = 10 * F.binary_cross_entropy_with_logits(logits, match.float())
    scores = {
        "match recall": (logits > 0)[match].float().tolist(),
        "match precision": match[logits > 0].float().tolist(),
    }

    # The tower's output is the input of SigLIP's last layer. Without a common component, frames of different
    # scenes differ in it, as cutting a video into segments by the cosine of their means asks for.
    states = frames.hidden_states[-2].float()
    loss = loss + states.mean((0, 1)).square().sum() / states.detach().square().sum(-1).mean()
    tokens = model.model.apply_pooling(model.model.multi_modal_projector(frames.hidden_states[-2]))
    tokens = F.rms_norm(tokens.float(), tokens.shape[-1:])
    words = model.get_input_embeddings().weight
    for name, vocabulary, target in zip(
        ("colour", "shape", "corner"), (list(COLOURS), SHAPES, CORNERS), batch.labels.to(device), strict=True
    ):
        ids = processor.tokenizer.convert_tokens_to_ids(list(vocabulary))
        named = F.pad(tokens @ words[ids].T, (1, 0))  # "nothing here" is a logit of 0
        losses = F.cross_entropy(named.flatten(0, 1), target.flatten(), reduction="none").view_as(target)
        loss = loss + losses[target > 0].mean() + losses[target == 0].mean()
        scores[f"name {name}"] = (named.argmax(-1) == target)[target > 0].float().tolist()
    return loss, scores
