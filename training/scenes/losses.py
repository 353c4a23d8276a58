"""Losses of both stages. They keep backgrounds: a visual token must give its place and its pixels."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn
from transformers import LlavaOnevisionForConditionalGeneration, PreTrainedTokenizerFast, SiglipModel

from adatp.scenes.vocabulary import CELL, COLOURS, DIRECTIONS, GRID, PLACES, SHAPES
from training.scenes.data import IGNORE, ClipBatch, Named, TokenLabels, VisionBatch
from training.scenes.model import TEXT_LENGTH, TOKENS_PER_FRAME, WIDTH
from training.scenes.scores import Scores

CLOCK_LAYER, MOTION_LAYER, NAME_LAYER, CHOICE_LAYER = 3, 6, 14, 16
"""Before these layers of 20 the states must contain: for visual tokens their frame and motion; for words
of a question what they name; for its last token which of the named things is meant.
"""

LOSS_WEIGHT = {"count": 3.0}
"""Question type -> weight of an answer, for types of which a clip allows only few."""

PIXEL_SCALE = 0.2
"""Root mean square of a change of pixels, in -1..1, at which a background token should clearly differ."""

PIXELS = (CELL // 4) ** 2 * 3
"""Numbers of a token's thumbnail: 4 x 4 pixels of three colours."""


class Probes(nn.ModuleDict):
    """Linear readers that are thrown away after training: they ask for what few answers teach."""

    def __init__(self) -> None:
        super().__init__(
            {
                "pixels": nn.Linear(WIDTH, PIXELS),
                "offset": nn.Linear(WIDTH, 2),
                "dot": nn.Linear(WIDTH, 1 + len(COLOURS)),
                "clock": nn.Linear(WIDTH, 1),
                "motion": nn.Linear(WIDTH, 1 + len(DIRECTIONS)),
                "named": nn.Linear(WIDTH, 1),
                "second": nn.Linear(WIDTH, 1),
                "third": nn.Linear(WIDTH, 3),
                "members": nn.Linear(WIDTH, len(COLOURS) + len(SHAPES)),
            }
        )


def normal_pixels(frames: torch.Tensor) -> torch.Tensor:
    """uint8 (N, 96, 96, 3) to float32 (N, 3, 96, 96) in -1..1."""
    return frames.permute(0, 3, 1, 2).float().div(127.5).sub(1)


def thumbnails_of(pixels: torch.Tensor) -> torch.Tensor:
    """Thumbnail that each visual token should reproduce: (N, 3, 96, 96) to (N, 36, 48)."""
    small = F.avg_pool2d(pixels, 4).reshape(len(pixels), 3, GRID, CELL // 4, GRID, CELL // 4)
    cells: torch.Tensor = small.permute(0, 2, 4, 1, 3, 5).flatten(3).flatten(1, 2)
    return cells


def token_loss(
    tokens: torch.Tensor,
    labels: TokenLabels,
    pixels: torch.Tensor,
    words: torch.Tensor,
    tokenizer: PreTrainedTokenizerFast,
    probes: Probes,
    scores: Scores,
) -> torch.Tensor:
    """Loss of colour, shape, dot, place, position and pixels as read from projected visual tokens.

    Names are read in the word embeddings of the decoder, the rest by probes. Where the pixels of a background
    change from one frame to the next, its tokens must as well.

    Args:
        tokens: (N, 36, width), projected and pooled.
        labels: Of the N frames.
        pixels: (N, 3, 96, 96).
        words: The decoder's word embeddings, (vocabulary, width).
        tokenizer: The tokenizer.
        probes: The probes.
        scores: Takes the accuracies.
    """
    tokens = F.rms_norm(tokens.float(), tokens.shape[-1:])
    loss: torch.Tensor = tokens.new_zeros(())

    def target_of(name: str) -> torch.Tensor:
        return torch.from_numpy(getattr(labels, name)).to(tokens.device)

    def read(names: Any) -> torch.Tensor:
        return tokens @ words[tokenizer.convert_tokens_to_ids(list(names))].T.float()

    colour = target_of("colour")
    logits = {
        "colour": F.pad(read(COLOURS), (1, 0)),  # "nothing here" is a logit of 0
        "shape": F.pad(read(SHAPES), (1, 0)),
        "dot": probes["dot"](tokens).float(),
    }
    for name, named in logits.items():
        target = target_of(name)
        if name == "dot":
            target = target.masked_fill(colour <= 0, IGNORE)
        losses = F.cross_entropy(named.flatten(0, 1), target.flatten(), reduction="none").view_as(target)
        for part in (target > 0, target == 0):
            loss = loss + (losses * part).sum() / part.sum().clamp(1)
        scores.add(f"name {name}", named.argmax(-1) == target, target > 0)
    place, named = target_of("place"), read(PLACES)
    known = place >= 0
    losses = F.cross_entropy(named.flatten(0, 1), place.flatten(), reduction="none").view_as(place)
    loss = loss + losses.sum() / known.sum().clamp(1)
    scores.add("name place", named.argmax(-1) == place, known)
    shown = colour > 0
    away = (probes["offset"](tokens).float() - target_of("offset")).abs().mean(-1)
    loss = loss + (away * shown).sum() / shown.sum().clamp(1)
    error = (probes["pixels"](tokens).float() - thumbnails_of(pixels)).square()
    scores.add("pixels", 1 - error.mean() / thumbnails_of(pixels).var())
    loss = loss + 4 * error.mean()
    empty = colour == 0
    return loss + 3 * _sameness(tokens, thumbnails_of(pixels), empty[1:] & empty[:-1], scores)


def _sameness(
    tokens: torch.Tensor, thumbnails: torch.Tensor, where: torch.Tensor, scores: Scores
) -> torch.Tensor:
    """How much more similar background tokens are, from one frame to the next, than the pixels they show.

    Without this, a background token is the name of its place and its position, the same in every frame of a
    scene whatever the camera does, and methods that compare tokens would find duplicates only.

    Args:
        tokens: (N, 36, width), of unit root mean square.
        thumbnails: (N, 36, 48), what they show.
        where: bool (N - 1, 36), which tokens are background in both frames.
        scores: Takes the mean cosine.
    """
    cosine = (tokens[1:] * tokens[:-1]).mean(-1)
    similar = torch.exp(-(thumbnails[1:] - thumbnails[:-1]).square().mean(-1) / PIXEL_SCALE**2)
    scores.add("background cosine", cosine, where)
    scores.add("background pixels", similar, where)
    loss: torch.Tensor = ((cosine - similar).relu().square() * where).sum() / where.sum().clamp(1)
    return loss


def vision_loss(
    batch: VisionBatch,
    partner: SiglipModel,
    model: LlavaOnevisionForConditionalGeneration,
    tokenizer: PreTrainedTokenizerFast,
    probes: Probes,
    scores: Scores,
) -> torch.Tensor:
    """SigLIP's sigmoid loss over all pairs of texts and frames, and `token_loss`."""
    device = partner.device
    pixels = normal_pixels(torch.from_numpy(batch.pixels).to(device))
    encoded = partner.vision_model(pixels, output_hidden_states=True)
    text = tokenizer(
        batch.texts, padding="max_length", max_length=TEXT_LENGTH, truncation=True, return_tensors="pt"
    )
    read = partner.text_model(text["input_ids"].to(device)).pooler_output
    cosine = F.normalize(read.float(), dim=-1) @ F.normalize(encoded.pooler_output.float(), dim=-1).T
    logits = cosine * partner.logit_scale.exp() + partner.logit_bias
    match = torch.from_numpy(batch.match).to(device)
    loss: torch.Tensor = 10 * F.binary_cross_entropy_with_logits(logits, match.float())
    ranks = logits.detach().flatten().argsort().argsort().float()
    positives = match.flatten().sum().clamp(1)
    mean_rank = (ranks * match.flatten()).sum() / positives
    scores.add("match area", (mean_rank - (positives - 1) / 2) / (match.numel() - positives).clamp(1))
    # The tower's output is the input of the partner's last layer. Without a common component, frames of
    # different scenes differ in it, as cutting a video into segments by the cosine of their means asks for.
    states = encoded.hidden_states[-2].float()
    loss = loss + states.mean((0, 1)).square().sum() / states.detach().square().sum(-1).mean()
    tokens = model.model.apply_pooling(model.model.multi_modal_projector(encoded.hidden_states[-2]))
    words = model.get_input_embeddings().weight
    loss = loss + token_loss(tokens, batch.labels, pixels, words, tokenizer, probes, scores)
    return loss


@dataclass
class _Asked:
    """Questions as tokens: ids (B, blocks, length); of each its clip, number, type and last token."""

    ids: torch.Tensor
    flat: list[tuple[int, int, str, int]]


def prompt_parts(processor: Any) -> tuple[str, str]:
    """A prompt before its video, and after it with "QUESTION" in the question's place."""
    content = [{"type": "video"}, {"type": "text", "text": "QUESTION"}]
    text = processor.apply_chat_template([{"role": "user", "content": content}], add_generation_prompt=True)
    head, tail = str(text).split("<video>\n")
    return head, tail


def _tokenise(batch: ClipBatch, tokenizer: PreTrainedTokenizerFast, tail: str) -> _Asked:
    blocks = max(len(questions) for questions in batch.questions)
    texts = [
        tail.replace("QUESTION", text) + answer + "<|im_end|>"
        for row in batch.questions
        for _, text, answer in row
    ]
    rows = tokenizer(texts).input_ids
    length = max(map(len, rows))
    ids = np.full((len(batch.questions), blocks, length), tokenizer.pad_token_id)
    flat, left = [], iter(rows)
    for i, questions in enumerate(batch.questions):
        for j, (kind, _, _) in enumerate(questions):
            row = next(left)
            ids[i, j, : len(row)] = row
            flat.append((i, j, kind, len(row) - 1))
    return _Asked(torch.from_numpy(ids), flat)


def visual_tokens(model: LlavaOnevisionForConditionalGeneration, pixels: torch.Tensor) -> torch.Tensor:
    """The projected tokens of frames (N, 3, 96, 96), by the frozen tower: (N, 36, width)."""
    with torch.no_grad():
        tower = model.model.vision_tower(pixels, output_hidden_states=True)
    tokens: torch.Tensor = model.model.apply_pooling(
        model.model.multi_modal_projector(tower.hidden_states[-1])
    )
    return tokens


def decoder_loss(
    batch: ClipBatch,
    model: LlavaOnevisionForConditionalGeneration,
    processor: Any,
    probes: Probes,
    scores: Scores,
) -> torch.Tensor:
    """Cross-entropy of the answers, with what the probes ask, and `token_loss` so that backgrounds stay.

    Every prompt is complete: no visual token is left out.
    """
    device, inner, tokenizer = model.device, model.model, processor.tokenizer
    head, tail = prompt_parts(processor)
    asked = _tokenise(batch, tokenizer, tail)
    n, blocks, length = asked.ids.shape
    ids = asked.ids.to(device)
    pixels = normal_pixels(torch.from_numpy(batch.pixels).to(device).flatten(0, 1))
    tokens = visual_tokens(model, pixels)
    embed = model.get_input_embeddings()
    lead = embed(torch.tensor(tokenizer(head).input_ids, device=device)).expand(n, -1, -1)
    visual = tokens.reshape(n, -1, tokens.shape[-1])
    prefix = torch.cat([lead, visual, inner.image_newline.expand(n, 1, -1)], dim=1)
    own = torch.ones(length, length, dtype=torch.bool, device=device).tril().expand(1, blocks, -1, -1)
    start = prefix.shape[1]
    after = start + torch.arange(length, device=device).repeat(n, blocks)
    output = inner.language_model(
        inputs_embeds=torch.cat([prefix, embed(ids.flatten(1))], dim=1),
        attention_mask=own,
        position_ids=torch.cat([torch.arange(start, device=device).expand(n, -1), after], dim=1),
        use_cache=False,
        output_hidden_states=True,
    )
    hidden = output.last_hidden_state[:, start:].reshape(n, blocks, length, -1)

    clip, block, kinds, last = zip(*asked.flat, strict=True)
    at = torch.tensor(last)
    logits = model.lm_head(torch.stack([hidden[clip, block, at - 2], hidden[clip, block, at - 1]])).float()
    target = torch.stack([asked.ids[clip, block, at - 1], asked.ids[clip, block, at]]).to(device)
    weight = torch.tensor([LOSS_WEIGHT.get(kind, 1.0) for kind in kinds], device=device)
    losses = F.cross_entropy(logits[0], target[0], reduction="none")
    loss = (weight * losses).sum() / weight.sum() + 0.1 * F.cross_entropy(logits[1], target[1])
    right = logits[0].argmax(-1) == target[0]
    for kind in set(kinds):
        scores.add(kind, right, torch.tensor([each == kind for each in kinds]).to(device))
    states = output.hidden_states
    for part in (
        token_loss(tokens, batch.labels, pixels, embed.weight, tokenizer, probes, scores),
        _visual_probes(states, batch, slice(lead.shape[1], start - 1), probes, scores),
        _question_probes(states, batch, start, asked, probes, scores),
    ):
        loss = loss + 0.3 * part
    return loss


def _visual_probes(
    states: Any, batch: ClipBatch, where: slice, probes: Probes, scores: Scores
) -> torch.Tensor:
    """Loss of what visual tokens must contain some layers up: their frame, and their thing's motion."""

    def at(layer: int) -> torch.Tensor:
        return F.rms_norm(states[layer][:, where].float(), states[layer].shape[-1:])

    n = len(batch.questions)
    early, later = at(CLOCK_LAYER), at(MOTION_LAYER)
    frames = torch.arange(early.shape[1], device=early.device) // TOKENS_PER_FRAME
    clock = 8 * probes["clock"](early).squeeze(-1).float()
    loss = 0.3 * F.huber_loss(clock, frames.expand(n, -1).float())
    scores.add("token frame", (clock - frames).abs() < 1)
    truth = torch.from_numpy(batch.labels.motion).to(early.device).view(n, -1)
    motion = probes["motion"](later).float()
    losses = F.cross_entropy(motion.flatten(0, 1), truth.flatten(), reduction="none").view_as(truth)
    for part in (truth > 0, truth == 0):
        loss = loss + (losses * part).sum() / part.sum().clamp(1)
    scores.add("token motion", motion.argmax(-1) == truth, truth > 0)
    return loss


def _question_probes(
    states: Any, batch: ClipBatch, start: int, asked: _Asked, probes: Probes, scores: Scores
) -> torch.Tensor:
    """Loss of what words of questions must contain: when a named thing is visible, which is meant, what
    counts.
    """
    n, blocks, length = asked.ids.shape
    device = states[0].device
    facts: list[tuple[int, int, str, int, Named]] = [
        (*each, batch.facts[each[0]][each[1]]) for each in asked.flat
    ]
    loss: torch.Tensor = states[0].new_zeros(()).float()

    def read(probe: str, spots: list[tuple[int, int, int]], layer: int) -> torch.Tensor:
        inside = states[layer][:, start:].reshape(n, blocks, length, -1)
        clip, block, word = torch.tensor(spots, device=device).unbind(1)
        chosen = inside[clip, block, word].float()
        found: torch.Tensor = probes[probe](F.rms_norm(chosen, chosen.shape[-1:])).float()
        return found

    if named := [((i, j, word), frame) for i, j, _, _, fact in facts for word, frame in fact.words]:
        truth = torch.tensor([frame for _, frame in named], device=device)
        predicted = 8 * read("named", [spot for spot, _ in named], NAME_LAYER).squeeze(-1)
        loss = loss + F.huber_loss(predicted, truth)
        scores.add("name frame", (predicted - truth).abs() < 1.5)
    for probe, kind in (("second", "before/after"), ("third", "first/last")):
        some = [
            (i, j, last, fact)
            for i, j, k, last, fact in facts
            if k == kind and fact.chosen is not None and fact.words
        ]
        spots = (
            [(i, j, fact.words[-1][0]) for i, j, _, fact in some],
            [(i, j, last - 2) for i, j, last, _ in some],
        )
        truth = torch.tensor([fact.chosen for *_, fact in some], device=device)
        for where, layer in zip(spots, (NAME_LAYER, CHOICE_LAYER), strict=True):
            if some:
                predicted = read(probe, where, layer)
                two = F.pad(predicted, (1, 0)) if predicted.shape[1] == 1 else predicted
                loss = loss + F.cross_entropy(two, truth)
                scores.add(f"{kind} before layer {layer}", two.argmax(-1) == truth)
    if counts := [(i, j, last, fact.members) for i, j, _, last, fact in facts if fact.members is not None]:
        truth = torch.tensor([members for *_, members in counts], device=device)
        predicted = read("members", [(i, j, last - 2) for i, j, last, _ in counts], NAME_LAYER)
        loss = loss + 3 * F.binary_cross_entropy_with_logits(predicted, truth)
        scores.add("members", ((predicted > 0) == (truth > 0)).all(1))
    return loss
