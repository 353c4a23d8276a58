"""Train the embedded model: ``python -m adatp.tiny.train --out runs/tiny`` (ours, not the paper's).

Two stages, each with its own time budget:

- *vision*: SigLIP, on single frames. Texts (captions, and questions whose evidence a frame shows or not) and
  frames are matched with SigLIP's sigmoid loss; at the same time every visual token that the Video LLM will
  see names, through its projector and in its own word embeddings, the colour, shape and place of what it
  shows. The tower is then copied into the Video LLM and stays frozen, so that SigLIP stays its partner.
- *decoder*: projector and decoder, on clips that grow from 2 to 32 frames. All questions on a clip share one
  pass: each sits in a block of its own after the visual tokens and sees those and itself only, at the
  positions it would have alone. In most steps most visual tokens that show nothing are left out (`thin`): in
  this the model has seen prompts with gaps, which real ones have not. Linear probes, thrown away
  afterwards, ask the hidden states for what few answers teach, such as the frame of a token (`decoder_loss`).

``--start-from`` takes the first weights from a checkpoint, the shipped one for instance, to go on improving
it (``--vision-minutes 0`` keeps its tower as it is).

Every minute the whole state is written to ``OUT/state.pt`` in one atomic step; the same command after a kill
goes on from there. Data come from (seed, stage, step), so no random state needs saving. ``OUT/log.jsonl``
holds the curves. Training needs transformers 5.12 and torch 2.9 or newer; what it makes runs from older ones
on.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import time
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from rich.progress import Progress, TextColumn, TimeRemainingColumn
from transformers import (
    AttentionInterface,
    AttentionMaskInterface,
    LlavaOnevisionForConditionalGeneration,
    PreTrainedModel,
    SiglipModel,
)
from transformers.masking_utils import sdpa_mask

from .model import PATCH, TEXT_LENGTH, TOKENS_PER_FRAME, build_model, build_relevance, graft_tower
from .processor import TinyProcessor, pixel_values
from .world import (
    COLOURS,
    CORNERS,
    DIRECTIONS,
    SHAPES,
    SIZE,
    Clip,
    Description,
    Question,
    Thing,
    ask,
    benchmark,
    evidence,
    make_clip,
    make_crowd,
    matches,
)

CELL = 2 * PATCH
"""Side of the square of pixels that one visual token covers."""

IGNORE = -100

PEAK_RATE = {"vision": 1.5e-3, "decoder": 1.5e-3}
"""Stage -> learning rate at its highest, of Muon (matrices of the layers) and AdamW (everything else)."""


@dataclass(frozen=True)
class Phase:
    """A part of the decoder's curriculum.

    Attributes:
        until: Share of the stage's time at which it ends.
        frames: Frames of a clip.
        clips: Clips a step.
        questions: Questions a clip.
    """

    until: float
    frames: int
    clips: int
    questions: int


CURRICULUM = (
    Phase(0.05, 2, 24, 8),
    Phase(0.15, 4, 16, 14),
    Phase(0.35, 8, 12, 20),
    Phase(0.75, 16, 8, 26),
    Phase(1.00, 32, 4, 32),
)
REHEARSAL = 0.25
"""Share of the steps of a phase that use an earlier phase's clips, so that binding does not fade."""


# --- the vision stage ---------------------------------------------------------------------------------------


def cell_labels(things: Iterable[tuple[Thing, tuple[int, int]]]) -> NDArray[np.int64]:
    """What each visual token of a frame shows.

    Args:
        things: What is in the frame, each with its centre (row, column) there.

    Returns:
        int64 (3, 36): colour, shape and corner of the frame, counted from 1; 0 where there is nothing,
        `IGNORE` where a thing only grazes the cell.
    """
    side = SIZE // CELL
    edges = np.arange(side) * CELL
    labels = np.zeros((3, side, side), dtype=np.int64)
    for thing, (row, column) in things:
        rows, columns = (
            np.minimum(edges + CELL, c + thing.radius) - np.maximum(edges, c - thing.radius)
            for c in (row, column)
        )
        overlap = rows.clip(0)[:, None] * columns.clip(0)
        shown = overlap > 0.2 * min(CELL, 2 * thing.radius) ** 2
        corner = 2 * (row > SIZE / 2) + (column > SIZE / 2)
        names = (list(COLOURS).index(thing.colour), SHAPES.index(thing.shape), corner)
        for label, name in zip(labels, names, strict=True):
            label[(overlap > 0) & ~shown] = IGNORE
            label[shown] = 1 + name
    return labels.reshape(3, -1)


def frame_things(clip: Clip, t: int) -> list[tuple[Thing, tuple[int, int]]]:
    """The things that frame t shows, each with its centre there."""
    return [(x, x.path[t - x.start]) for x in clip.things if x.start <= t < x.stop]


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
    seen = relevance.vision_model(batch.pixels.to(device), output_hidden_states=True)
    text = processor.tokenizer(
        batch.texts, padding="max_length", max_length=TEXT_LENGTH, truncation=True, return_tensors="pt"
    )
    read = relevance.text_model(text["input_ids"].to(device)).pooler_output
    cosine = F.normalize(read.float(), dim=-1) @ F.normalize(seen.pooler_output.float(), dim=-1).T
    logits = cosine * relevance.logit_scale.exp() + relevance.logit_bias
    match = batch.match.to(device)
    loss = 10 * F.binary_cross_entropy_with_logits(logits, match.float())
    scores = {
        "match recall": (logits > 0)[match].float().tolist(),
        "match precision": match[logits > 0].float().tolist(),
    }

    # The tower's output is the input of SigLIP's last layer. Without a common component, frames of different
    # scenes differ in it, as cutting a video into segments by the cosine of their means asks for.
    states = seen.hidden_states[-2].float()
    loss = loss + states.mean((0, 1)).square().sum() / states.detach().square().sum(-1).mean()
    tokens = model.model.apply_pooling(model.model.multi_modal_projector(seen.hidden_states[-2]))
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


# --- the decoder stage --------------------------------------------------------------------------------------


@dataclass
class ClipBatch:
    """Clips with their questions.

    Attributes:
        pixels: (B, F, 3, 96, 96).
        questions: B lists.
        motion: (B, F * 36), `motion_labels`.
        shows: bool (B, F * 36), whether a visual token shows or grazes a thing.
        named: B lists of a list a question, `named_times`.
        members: B lists of `counted` of each question.
    """

    pixels: torch.Tensor
    questions: list[list[Question]]
    motion: torch.Tensor
    shows: torch.Tensor
    named: list[list[list[tuple[int, float]]]]
    members: list[list[tuple[int, list[float]] | None]]


def named_times(clip: Clip, question: Question) -> list[tuple[int, float]]:
    """Which words of a question name one thing of the clip, and in which frame (the middle of its life).

    Returns:
        (number of the name's last word, frame), in the order of naming.
    """
    words, found, at = question.text.split(), [], 0
    for colour, shape in question.about:
        things = [thing for thing in clip.things if matches(thing, (colour, shape))]
        name = [*([colour] if colour else []), shape or "thing"]
        at = next((i for i in range(at, len(words)) if words[i : i + len(name)] == name), len(words))
        if len(things) == 1 and at < len(words):
            found.append((at + len(name) - 1, (things[0].start + things[0].stop - 1) / 2))
            at += len(name)
    return found


def motion_labels(clip: Clip) -> NDArray[np.int64]:
    """Which way the thing that each visual token shows is moving.

    Returns:
        int64 (F, 36): direction, counted from 1; 0 for a thing that stays; `IGNORE` for everything else, and
        for moving things in their first frame.
    """
    labels = np.full((clip.n_frames, (SIZE // CELL) ** 2), IGNORE)
    for t in range(clip.n_frames):
        for thing, centre in frame_things(clip, t):
            shown = cell_labels([(thing, centre)])[0] > 0
            if thing.direction is None:
                labels[t, shown] = 0
            elif t > thing.start:
                labels[t, shown] = 1 + list(DIRECTIONS).index(thing.direction)
    return labels


def _second(question: Question, names: list[tuple[int, float]]) -> bool:
    """Whether the second thing named is the answer or, where neither can be, whether it comes later."""
    if question.kind == "first/last":
        return question.text.split()[names[1][0]] == question.answer
    return names[1][1] > names[0][1]


def counted(clip: Clip, question: Question) -> tuple[int, list[float]] | None:
    """What a question on a number counts: the number of the word "things", and the colours and shapes of the
    things that are meant, as one 0 or 1 for each colour and shape; None for other questions."""
    if question.kind != "count":
        return None
    meant = [thing for thing in clip.things if matches(thing, question.about[0])]
    looks = {look for thing in meant for look in (thing.colour, thing.shape)}
    return question.text.split().index("things"), [float(look in looks) for look in (*COLOURS, *SHAPES)]


def clip_batch(seed: int, phase: Phase) -> ClipBatch:
    """Clips of a phase with their questions."""
    seeds = range(seed * phase.clips, (seed + 1) * phase.clips)
    clips = [make_clip(s, phase.frames) for s in seeds]
    pixels = torch.stack([pixel_values(clip.frames) for clip in clips])
    shows = [[cell_labels(frame_things(clip, t))[0] != 0 for t in range(phase.frames)] for clip in clips]
    questions = [ask(clip, seed, phase.questions, HARD) for clip, seed in zip(clips, seeds, strict=True)]
    return ClipBatch(
        pixels,
        questions,
        torch.from_numpy(np.stack([motion_labels(clip).reshape(-1) for clip in clips])),
        torch.from_numpy(np.array(shows).reshape(phase.clips, -1)),
        [[named_times(clip, q) for q in asked] for clip, asked in zip(clips, questions, strict=True)],
        [[counted(clip, q) for q in asked] for clip, asked in zip(clips, questions, strict=True)],
    )


def thin(shows: torch.Tensor, share: float, generator: torch.Generator) -> torch.Tensor:
    """Visual tokens to go on with: those that show things, and random ones of the rest, equally many a clip.

    Args:
        shows: bool (B, N).
        share: Of all N tokens, how many to keep at least.
        generator: Draws them.

    Returns:
        int64 (B, n), ascending.
    """
    n = max(int(shows.sum(1).max()), math.ceil(share * shows.shape[1]))
    order = torch.rand(shows.shape, generator=generator) + shows.cpu()
    return order.topk(n, dim=1).indices.sort(dim=1).values.to(shows.device)


def prompt(processor: TinyProcessor, question: str) -> str:
    """The prompt of one question on one video."""
    content = [{"type": "video"}, {"type": "text", "text": question}]
    text = processor.apply_chat_template([{"role": "user", "content": content}], add_generation_prompt=True)
    return str(text)


def shared_prefix_attention(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float,
    **_: Any,
) -> tuple[torch.Tensor, None]:
    """Attention of a prefix, and of questions behind it that see it and themselves but not each other.

    The mask says which: (1, blocks, length, length), True where a token of a question sees one of its own
    question; none if there is only a prefix, which is causal if the module is. Plain matrix products in the
    type of the query, the causal part in strips: on a CPU in bf16 twice as fast as the fused kernel, and
    other questions cost nothing.
    """
    groups = query.shape[1] // key.shape[1]
    q = (query * scaling).to(value.dtype)  # rotary embeddings leave autocast's bf16
    k, v = (x.to(value.dtype).repeat_interleave(groups, dim=1) for x in (key, value))
    blocks, length = (0, 0) if attention_mask is None else attention_mask.shape[1:3]
    prefix = q.shape[2] - blocks * length
    parts = []
    with torch.autocast(query.device.type, enabled=False):
        strip = -(-prefix // 4) if module.is_causal else prefix
        for at in range(0, prefix, strip):
            end = min(at + strip, prefix)
            scores = q[:, :, at:end] @ k[:, :, :end].transpose(-1, -2)
            if module.is_causal:
                future = torch.ones(scores.shape[-2:], dtype=torch.bool, device=q.device).triu(at + 1)
                scores = scores.masked_fill(future, -torch.inf)
            parts.append(scores.softmax(-1) @ v[:, :, :end])
        if attention_mask is not None:
            own_q, own_k, own_v = (
                x[:, :, prefix:].reshape(*x.shape[:2], blocks, length, -1) for x in (q, k, v)
            )
            own = (own_q @ own_k.transpose(-1, -2)).masked_fill(~attention_mask, -torch.inf)
            seen = q[:, :, prefix:] @ k[:, :, :prefix].transpose(-1, -2)
            weights = torch.cat([seen.reshape(*own.shape[:-1], prefix), own], dim=-1).softmax(-1)
            read = weights[..., :prefix].flatten(2, 3) @ v[:, :, :prefix]
            parts.append(read + (weights[..., prefix:] @ own_v).flatten(2, 3))
    return torch.cat(parts, dim=2).transpose(1, 2), None


CLOCK_LAYER, MOTION_LAYER, NAME_LAYER = 2, 4, 9
"""In front of these layers of 12 the visual tokens' states have to know the frame, and motion, and the words
of a question what they stand for."""

HARD = {"first/last": 2.0, "count": 5.0, "before/after": 1.5}
"""Question types that are asked more often, as they are learned last."""

LOSS_WEIGHT = {"count": 4.0}
"""And of which a clip allows only few."""

FULL = 0.25
"""Share of the steps in which the decoder sees every visual token. In the others most of those that show
nothing are left out, for several times the clips in the time."""

SHARED_PREFIX = "adatp_shared_prefix"
AttentionInterface.register(SHARED_PREFIX, shared_prefix_attention)
AttentionMaskInterface.register(SHARED_PREFIX, sdpa_mask)


def decoder_loss(
    batch: ClipBatch,
    model: LlavaOnevisionForConditionalGeneration,
    processor: TinyProcessor,
    probes: torch.nn.ModuleDict | None = None,
    kept: torch.Tensor | None = None,
) -> tuple[torch.Tensor, dict[str, list[float]]]:
    """Cross-entropy of answers and of the token that ends them, and the step's accuracy per question type.

    Args:
        batch: Clips and questions.
        model: The Video LLM.
        processor: Its processor.
        probes: Linear probes that are thrown away after training. Some layers up, every visual token must
            tell its frame ("clock") and which way its thing moves ("motion"); every name in a question the
            frame of what it names ("named") and, the second of two, whether that comes later or, where one
            of the two is asked for, whether it is that one ("second"); and what is to be counted, its colours
            and shapes ("members"). That is thousands of labels a clip for
            what few questions ask.
        kept: int64 (B, n), ascending: the visual tokens that the decoder sees, at the positions they have
            among all; by default all.
    """
    device, inner = model.device, model.model
    n, blocks = len(batch.questions), max(len(qs) for qs in batch.questions)
    head, tail = prompt(processor, "QUESTION").split("<video>\n")
    asked = [(i, j, q) for i, qs in enumerate(batch.questions) for j, q in enumerate(qs)]
    encode = processor.tokenizer
    rows = [encode(tail.replace("QUESTION", q.text) + q.answer + "<|im_end|>").input_ids for _, _, q in asked]
    length = max(map(len, rows))
    ids = torch.full((n, blocks, length), encode.pad_token_id)
    last = torch.zeros(n, blocks, dtype=torch.long)
    for (i, j, _), row in zip(asked, rows, strict=True):
        ids[i, j, : len(row)] = torch.tensor(row)
        last[i, j] = len(row) - 1

    with torch.no_grad():
        tower = inner.vision_tower(batch.pixels.to(device).flatten(0, 1), output_hidden_states=True)
    visual = inner.apply_pooling(inner.multi_modal_projector(tower.hidden_states[-1]))
    visual = visual.reshape(n, -1, visual.shape[-1])
    total = visual.shape[1]
    if kept is None:
        kept = torch.arange(total, device=device).expand(n, -1)
    visual = visual.gather(1, kept[..., None].expand(-1, -1, visual.shape[-1]))
    embed = model.get_input_embeddings()
    lead = embed(torch.tensor(encode(head).input_ids, device=device)).expand(n, -1, -1)
    newline = inner.image_newline.expand(n, 1, -1)
    prefix = torch.cat([lead, visual, newline], dim=1)
    before, after = (
        lead.shape[1],
        torch.arange(1 + length, device=device).repeat(n, 1) + lead.shape[1] + total,
    )
    positions = torch.cat(
        [
            torch.arange(before, device=device).expand(n, -1),
            before + kept,
            after[:, :1],
            after[:, 1:].repeat(1, blocks),
        ],
        dim=1,
    )
    own = torch.ones(length, length, dtype=torch.bool, device=device).tril().expand(1, blocks, -1, -1)
    output = inner.language_model(
        inputs_embeds=torch.cat([prefix, embed(ids.to(device).flatten(1))], dim=1),
        attention_mask=own,
        position_ids=positions,
        use_cache=False,
        output_hidden_states=probes is not None,
    )
    hidden = output.last_hidden_state[:, prefix.shape[1] :].reshape(n, blocks, length, -1)

    clip, block, _ = zip(*asked, strict=True)
    answer = last[clip, block] - 1
    logits = model.lm_head(
        torch.stack([hidden[clip, block, answer - 1], hidden[clip, block, answer]])
    ).float()
    target = torch.stack([ids[clip, block, answer], ids[clip, block, answer + 1]]).to(device)
    weight = torch.tensor([LOSS_WEIGHT.get(question.kind, 1.0) for *_, question in asked], device=device)
    losses = F.cross_entropy(logits[0], target[0], reduction="none")
    loss = (weight * losses).sum() / weight.sum() + 0.1 * F.cross_entropy(logits[1], target[1])
    scores: dict[str, list[float]] = defaultdict(list)
    if probes is not None:
        states = [
            F.rms_norm(
                output.hidden_states[layer][:, before : prefix.shape[1] - 1].float(), prefix.shape[-1:]
            )
            for layer in (CLOCK_LAYER, MOTION_LAYER)
        ]
        frames = (kept // TOKENS_PER_FRAME).float()
        told = probes["clock"](states[0]).squeeze(-1).float() * 8
        loss = loss + 0.1 * F.huber_loss(told, frames)
        scores["token frame"] = ((told - frames).abs() < 1).float().flatten().tolist()

        def read(probe: str, spots: list[tuple[int, int, int]], layer: int = NAME_LAYER) -> torch.Tensor:
            """What a probe makes of tokens of questions: (clip, question, token)."""
            asking = output.hidden_states[layer][:, prefix.shape[1] :].reshape(n, blocks, length, -1)
            at = torch.tensor(spots, device=device).unbind(1)
            answers: torch.Tensor = probes[probe](F.rms_norm(asking[at].float(), prefix.shape[-1:]))
            return answers.float()

        questions = [(i, j, names) for i, row in enumerate(batch.named) for j, names in enumerate(row)]
        if single := [((i, j, word), frame) for i, j, names in questions for word, frame in names]:
            named = torch.tensor([frame for _, frame in single], device=device)
            told = read("named", [spot for spot, _ in single]).squeeze(-1) * 8
            loss = loss + 0.3 * F.huber_loss(told, named)
            scores["name frame"] = ((told - named).abs() < 1.5).float().tolist()
        counts = [
            (i, j, x) for i, row in enumerate(batch.members) for j, x in enumerate(row) if x is not None
        ]
        if counts:
            members = torch.tensor([x[1] for _, _, x in counts], device=device)
            told = read("members", [(i, j, x[0]) for i, j, x in counts])
            loss = loss + F.binary_cross_entropy_with_logits(told, members)
            scores["members"] = ((told > 0) == (members > 0)).all(1).float().tolist()
        # Which of two to name has to reach the token that answers while it can still look back at them.
        pairs = [(i, j, names) for i, j, names in questions if len(names) == 2]
        chosen = [(i, j, names) for i, j, names in pairs if batch.questions[i][j].kind == "first/last"]
        for score, some, spots, layer in (
            ("name second", pairs, [(i, j, names[1][0]) for i, j, names in pairs], NAME_LAYER),
            ("answer second", chosen, [(i, j, int(last[i, j]) - 2) for i, j, _ in chosen], NAME_LAYER + 1),
        ):
            if some:
                second = torch.tensor([_second(batch.questions[i][j], x) for i, j, x in some], device=device)
                told = read("second", spots, layer).squeeze(-1)
                loss = loss + 0.3 * F.binary_cross_entropy_with_logits(told, second.float())
                scores[score] = ((told > 0) == second).float().tolist()
        truth = batch.motion.to(device).gather(1, kept)
        if (truth > 0).any():
            told = probes["motion"](states[1][truth != IGNORE]).float()
            truth = truth[truth != IGNORE]
            losses = F.cross_entropy(told, truth, reduction="none")
            still = truth == 0
            loss = loss + 0.3 * (losses[~still].mean() + losses[still].sum() / still.sum().clamp(1))
            scores["token motion"] = (told.argmax(-1) == truth)[~still].float().tolist()
    for (_, _, question), right in zip(asked, (logits[0].argmax(-1) == target[0]).tolist(), strict=True):
        scores[question.kind].append(float(right))
    return loss, scores


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


# --- the run ------------------------------------------------------------------------------------------------


class Run:
    """The state of a training run in a folder, and its log.

    Attributes:
        stage: "vision", "decoder" or "done".
        step: Steps taken in the stage.
        spent: Seconds of training in each stage, over all sittings, without validation.
    """

    def __init__(self, out: Path, seed: int, device: str, start_from: Path | None = None):
        out.mkdir(parents=True, exist_ok=True)
        self.out, self.seed, self.device = out, seed, torch.device(device)
        torch.manual_seed(seed)
        self.processor = TinyProcessor()
        self.relevance = build_relevance(self.processor.tokenizer).to(self.device)
        self.model = build_model(self.processor.tokenizer).to(self.device)
        width = self.model.config.text_config.hidden_size
        self.probes = torch.nn.ModuleDict(
            {
                "clock": torch.nn.Linear(width, 1),
                "motion": torch.nn.Linear(width, 1 + len(DIRECTIONS)),
                "named": torch.nn.Linear(width, 1),
                "second": torch.nn.Linear(width, 1),
                "members": torch.nn.Linear(width, len(COLOURS) + len(SHAPES)),
            }
        ).to(self.device)
        self.stage, self.step = "vision", 0
        self.spent = {"vision": 0.0, "decoder": 0.0}
        if start_from is not None:
            self.relevance.load_state_dict(_weights(SiglipModel, start_from / "relevance"))
            self.model.load_state_dict(_weights(LlavaOnevisionForConditionalGeneration, start_from))
        state = out / "state.pt"
        saved: dict[str, Any] | None = None
        if state.exists():
            saved = torch.load(state, map_location=self.device, weights_only=True)
            self.stage, self.step, self.spent = saved["stage"], saved["step"], saved["spent"]
            self.relevance.load_state_dict(saved["relevance"])
            self.model.load_state_dict(saved["model"])
            self.probes.load_state_dict(saved["probes"])
        self.optimizers = self._optimizers()
        if saved is not None and self.stage != "done":
            for optimizer, its in zip(self.optimizers, saved["optimizers"], strict=True):
                optimizer.load_state_dict(its)

    def _optimizers(self) -> tuple[torch.optim.Optimizer, ...]:
        vision = self.stage == "vision"
        self.relevance.requires_grad_(vision)
        self.model.requires_grad_(not vision)
        self.probes.requires_grad_(not vision)
        if vision:
            self.model.model.multi_modal_projector.requires_grad_(True)
            self.model.get_input_embeddings().requires_grad_(True)
        else:
            self.model.model.vision_tower.requires_grad_(False)
        named = [
            x
            for m in (self.relevance, self.model, self.probes)
            for x in m.named_parameters()
            if x[1].requires_grad
        ]
        self.trained = [p for _, p in named]
        matrices = [p for name, p in named if ".layers." in name and p.ndim == 2]
        others = [p for name, p in named if not (".layers." in name and p.ndim == 2)]
        return (
            torch.optim.Muon(matrices, lr=0.0, weight_decay=0.02, adjust_lr_fn="match_rms_adamw"),
            torch.optim.AdamW(
                [
                    {"params": [p for p in others if p.ndim >= 2], "weight_decay": 0.02},
                    {"params": [p for p in others if p.ndim < 2], "weight_decay": 0.0},
                ],
                lr=0.0,
                betas=(0.9, 0.98),
            ),
        )

    def save(self) -> None:
        """Write the state in one atomic step: a kill leaves the old one or the new one, never half of one."""
        state = {
            "stage": self.stage,
            "step": self.step,
            "spent": self.spent,
            "relevance": self.relevance.state_dict(),
            "model": self.model.state_dict(),
            "probes": self.probes.state_dict(),
            "optimizers": [optimizer.state_dict() for optimizer in self.optimizers],
        }
        new = self.out / "state.pt.new"
        torch.save(state, new)
        os.replace(new, self.out / "state.pt")

    def log(self, **record: Any) -> None:
        """Append a record to the curves."""
        minutes = {stage: round(seconds / 60, 2) for stage, seconds in self.spent.items()}
        with (self.out / "log.jsonl").open("a") as file:
            file.write(
                json.dumps({"stage": self.stage, "step": self.step, "minutes": minutes, **record}) + "\n"
            )

    def update(self, loss: torch.Tensor, progress: float) -> None:
        """One optimiser step: warm up, hold, then decay to zero over the last 30 % of the time."""
        rate = PEAK_RATE[self.stage] * min(1.0, (self.step + 1) / 30, (1 - progress) / 0.3 + 0.02)
        for optimizer in self.optimizers:
            for group in optimizer.param_groups:
                group["lr"] = rate
            optimizer.zero_grad(set_to_none=True)
        torch.autograd.backward(loss)
        torch.nn.utils.clip_grad_norm_(self.trained, 1.0)
        for optimizer in self.optimizers:
            optimizer.step()
        self.step += 1

    def _loss(self, phase: Phase) -> tuple[torch.Tensor, dict[str, list[float]]]:
        seed = 1_000_000 * self.seed + self.step
        with torch.autocast(self.device.type, torch.bfloat16):
            if self.stage == "vision":
                return vision_loss(vision_batch(seed), self.relevance, self.model, self.processor)
            rng = np.random.default_rng((2, seed))
            at = CURRICULUM.index(phase)
            if at and rng.random() < REHEARSAL:
                phase = CURRICULUM[int(rng.integers(at))]
            batch = clip_batch(seed, phase)
            share = 1.0 if rng.random() < FULL else float(rng.uniform(0.0, 0.4))
            kept = thin(batch.shows, share, torch.Generator().manual_seed(seed)).to(self.device)
            return decoder_loss(batch, self.model, self.processor, self.probes, kept)

    def train(self, budgets: dict[str, float], validation: int) -> None:
        """Run the stages that are left.

        Args:
            budgets: Stage -> seconds of training.
            validation: Questions of a validation, which runs at the end of each phase.
        """
        self.model.set_attn_implementation(SHARED_PREFIX)
        self.relevance.set_attn_implementation(SHARED_PREFIX)
        with Progress(
            *Progress.get_default_columns()[:-1], TimeRemainingColumn(), TextColumn("{task.fields[now]}")
        ) as bar:
            for stage, budget in budgets.items():
                if self.stage == stage:
                    self._train_stage(budget, validation, bar)
        self.save()

    def _train_stage(self, budget: float, validation: int, bar: Progress) -> None:
        task = bar.add_task(self.stage, total=budget, now="")
        losses: list[float] = []
        scores: dict[str, list[float]] = defaultdict(list)
        saved = logged = time.monotonic()
        while self.spent[self.stage] < budget:
            began = time.monotonic()
            progress = self.spent[self.stage] / budget
            phase = next(phase for phase in CURRICULUM if progress < phase.until)
            loss, step_scores = self._loss(phase)
            self.update(loss, progress)
            now = time.monotonic()
            self.spent[self.stage] += now - began
            losses.append(loss.item())
            for name, values in step_scores.items():
                scores[name] += values
            bar.update(task, completed=self.spent[self.stage], now=f"step {self.step} loss {losses[-1]:.3f}")
            if now - logged > 30:
                means = {
                    name: round(float(np.mean(values)), 4)
                    for name, values in sorted(scores.items())
                    if values
                }
                frames = phase.frames if self.stage == "decoder" else 1
                self.log(frames=frames, loss=round(float(np.mean(losses)), 4), train=means)
                losses, logged = [], now
                scores.clear()
            if now - saved > 60:
                self.save()
                saved = now
            ends = self.spent[self.stage] / budget >= phase.until
            if self.stage == "decoder" and ends:
                self.save()
                frames = max(phase.frames, 4)
                self.model.eval()
                self.model.set_attn_implementation("sdpa")
                self.log(
                    frames=frames,
                    validation=validate(self.model, self.processor, "validation", frames, validation),
                )
                self.model.train()
                self.model.set_attn_implementation(SHARED_PREFIX)
                logged = saved = time.monotonic()
        if self.stage == "vision":
            graft_tower(self.model, self.relevance)
        self.stage = "decoder" if self.stage == "vision" else "done"
        self.step = 0
        self.optimizers = self._optimizers()
        self.save()


def _weights(cls: type[PreTrainedModel], folder: Path) -> dict[str, torch.Tensor]:
    """The weights of a checkpoint folder, in fp32."""
    weights: dict[str, torch.Tensor] = cls.from_pretrained(folder, dtype=torch.float32).state_dict()
    return weights


def main() -> None:
    """Parse the command line and train."""
    parser = argparse.ArgumentParser(
        prog="python -m adatp.tiny.train", description="Train the embedded model."
    )
    parser.add_argument("--out", type=Path, required=True, help="folder of the run; resumed if it holds one")
    parser.add_argument("--vision-minutes", type=float, default=20, help="minutes of the vision stage")
    parser.add_argument("--minutes", type=float, default=60, help="minutes of the decoder stage")
    parser.add_argument("--validation", type=int, default=160, help="questions of a validation")
    parser.add_argument("--start-from", type=Path, help="checkpoint folder to take the first weights from")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="threads on the CPU")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    budgets = {"vision": 60 * args.vision_minutes, "decoder": 60 * args.minutes}
    Run(args.out, args.seed, args.device, args.start_from).train(budgets, args.validation)


if __name__ == "__main__":
    main()
