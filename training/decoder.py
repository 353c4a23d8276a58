"""The decoder stage's loss: all questions on a clip in one pass, and the probes on its hidden states."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import LlavaOnevisionForConditionalGeneration

from adatp.tiny.processor import TinyProcessor
from adatp.tiny.world import Question
from training.clips import ClipBatch
from training.probes import SharedPass, probe_terms
from training.validation import prompt

LOSS_WEIGHT = {"count": 4.0}
"""Question type -> weight of its answers in the loss, where it is not 1: a clip allows only few of these."""


def decoder_loss(
    batch: ClipBatch,
    model: LlavaOnevisionForConditionalGeneration,
    processor: TinyProcessor,
    probes: torch.nn.ModuleDict | None = None,
    kept: Tensor | None = None,
) -> tuple[Tensor, dict[str, list[float]]]:
    """Cross-entropy of answers and of the token that ends them, and the step's accuracy per question type.

    Args:
        batch: Clips and questions.
        model: The Video LLM.
        processor: Its processor.
        probes: The linear probes of `training.probes`, which are thrown away after training; none by default.
        kept: int64 (B, n), ascending: the visual tokens that the decoder reads, at the positions they have
            among all; by default all.

    Returns:
        The loss, and for each question type and each probe how often it was right, as ones and zeros.
    """
    asked = [(i, j, q) for i, qs in enumerate(batch.questions) for j, q in enumerate(qs)]
    head, questions = _encode(batch, asked, processor)
    visual = _visual_tokens(batch, model)
    total = visual.shape[1]
    if kept is None:
        kept = torch.arange(total, device=model.device).expand(len(batch.questions), -1)
    visual = visual.gather(1, kept[..., None].expand(-1, -1, visual.shape[-1]))
    shared = _shared_pass(model, head, visual, kept, total, questions, states=probes is not None)

    loss, right = _answer_loss(model, shared.hidden, questions, asked)
    scores: dict[str, list[float]] = defaultdict(list)
    if probes is not None:
        for term in probe_terms(batch, probes, shared, questions.last, kept):
            loss = loss + term.loss
            scores[term.name] = term.right
    for (_, _, question), hit in zip(asked, right, strict=True):
        scores[question.kind].append(float(hit))
    return loss, scores


_Asked = list[tuple[int, int, Question]]
"""Every question of a batch with the number of its clip, and its own among the clip's."""


@dataclass(frozen=True)
class _Encoded:
    """Tokens from the question on, to the end of the answer.

    Attributes:
        ids: int64 (B, blocks, length), padded on the right.
        last: int64 (B, blocks), the place of the token that ends the answer.
    """

    ids: Tensor
    last: Tensor


def _encode(batch: ClipBatch, asked: _Asked, processor: TinyProcessor) -> tuple[Tensor, _Encoded]:
    """Token ids of what comes before the video, and of what comes after it for each question."""
    head, tail = prompt(processor, "QUESTION").split("<video>\n")
    encode = processor.tokenizer
    rows = [encode(tail.replace("QUESTION", q.text) + q.answer + "<|im_end|>").input_ids for _, _, q in asked]
    n, blocks = len(batch.questions), max(len(qs) for qs in batch.questions)
    ids = torch.full((n, blocks, max(map(len, rows))), encode.pad_token_id)
    last = torch.zeros(n, blocks, dtype=torch.long)
    for (i, j, _), row in zip(asked, rows, strict=True):
        ids[i, j, : len(row)] = torch.tensor(row)
        last[i, j] = len(row) - 1
    return torch.tensor(encode(head).input_ids), _Encoded(ids, last)


def _visual_tokens(batch: ClipBatch, model: LlavaOnevisionForConditionalGeneration) -> Tensor:
    """All projected visual tokens of each clip, (B, F * 36, d); the tower is frozen."""
    inner = model.model
    with torch.no_grad():
        tower = inner.vision_tower(batch.pixels.to(model.device).flatten(0, 1), output_hidden_states=True)
    visual: Tensor = inner.apply_pooling(inner.multi_modal_projector(tower.hidden_states[-1]))
    return visual.reshape(len(batch.questions), -1, visual.shape[-1])


def _shared_pass(
    model: LlavaOnevisionForConditionalGeneration,
    head: Tensor,
    visual: Tensor,
    kept: Tensor,
    total: int,
    questions: _Encoded,
    states: bool,
) -> SharedPass:
    """Run the decoder on the clips, each followed by all its questions.

    Args:
        model: The Video LLM.
        head: int64 (h,), tokens before the video.
        visual: (B, n, d), the visual tokens that the decoder reads.
        kept: int64 (B, n), their places among all.
        total: Visual tokens of a clip before any was left out.
        questions: What follows the video.
        states: Whether to keep every layer's hidden states.
    """
    device, inner, n = model.device, model.model, len(visual)
    _, blocks, length = questions.ids.shape
    embed = model.get_input_embeddings()
    lead = embed(head.to(device)).expand(n, -1, -1)
    prefix = torch.cat([lead, visual, inner.image_newline.expand(n, 1, -1)], dim=1)
    first = lead.shape[1]
    after = torch.arange(1 + length, device=device).repeat(n, 1) + first + total
    before = torch.arange(first, device=device).expand(n, -1)
    positions = torch.cat([before, first + kept, after[:, :1], after[:, 1:].repeat(1, blocks)], dim=1)
    own = torch.ones(length, length, dtype=torch.bool, device=device).tril().expand(1, blocks, -1, -1)
    output = inner.language_model(
        inputs_embeds=torch.cat([prefix, embed(questions.ids.to(device).flatten(1))], dim=1),
        attention_mask=own,
        position_ids=positions,
        use_cache=False,
        output_hidden_states=states,
    )
    return SharedPass(
        hidden=output.last_hidden_state[:, prefix.shape[1] :].reshape(n, blocks, length, -1),
        states=output.hidden_states if states else (),
        first=first,
        prefix=prefix.shape[1],
    )


def _answer_loss(
    model: LlavaOnevisionForConditionalGeneration, hidden: Tensor, questions: _Encoded, asked: _Asked
) -> tuple[Tensor, list[bool]]:
    """Weighted cross-entropy of the answers and of what ends them; which answers were right."""
    device, ids = model.device, questions.ids
    clip, block, _ = zip(*asked, strict=True)
    answer = questions.last[clip, block] - 1
    logits = model.lm_head(torch.stack([hidden[clip, block, answer - 1], hidden[clip, block, answer]]))
    logits = logits.float()
    target = torch.stack([ids[clip, block, answer], ids[clip, block, answer + 1]]).to(device)
    weight = torch.tensor([LOSS_WEIGHT.get(question.kind, 1.0) for *_, question in asked], device=device)
    losses = F.cross_entropy(logits[0], target[0], reduction="none")
    loss = (weight * losses).sum() / weight.sum() + 0.1 * F.cross_entropy(logits[1], target[1])
    return loss, (logits[0].argmax(-1) == target[0]).tolist()
