"""Answers the model calls of requests while the method prunes, as one batch where possible."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from lmms_eval.api.instance import TokenCounts
from loguru import logger

from adatp.integrations.lmms_models.figures import counts_of
from adatp.layout import LayoutError
from adatp.methods import Method
from adatp.models import family_of
from adatp.session import Prompt, Session
from adatp.session.prompt import prompt_layouts


@dataclass(frozen=True, eq=False)
class Call:
    """One call of ``generate``.

    Attributes:
        number: number of the request in its batch.
        prompt: the prompt.
        settings: arguments of ``generate``.
    """

    number: int
    prompt: Prompt
    settings: dict[str, Any]


@dataclass(frozen=True, eq=False)
class Reply:
    """The model's reply to a call.

    Attributes:
        sequence: prompt and answer, (1, L + answer), int64.
        counts: tokens, and the pruning figures if there was a video.
        milliseconds: time of ``generate``; in a batch, this prompt's share.
    """

    sequence: torch.Tensor
    counts: TokenCounts
    milliseconds: float


def answer_calls(
    session: Session, calls: Sequence[Call], method: Method, reuse_frames: float | None
) -> list[Reply | Exception]:
    """Answer calls together. If that fails, answer each alone, so that an error only costs its own document.

    Args:
        session: holds the model.
        calls: calls with equal or different settings.
        method: the pruning method for prompts with a video.
        reuse_frames: see `Method.__call__`.

    Returns:
        A reply for each call, or the error.
    """
    replies: dict[int, Reply | Exception] = {}
    for group in _groups(session, calls):
        given: list[Reply | Exception] = []
        try:
            given += _answer(session, group, method, reuse_frames)
        except Exception as error:  # of any kind: the prompts are those of others
            given += [error] if len(group) == 1 else []
        if not given:  # outside of the handler, whose traceback holds on to what the model had in memory
            given = [answer_calls(session, [call], method, reuse_frames)[0] for call in group]
        replies.update(zip((call.number for call in group), given, strict=True))
    return [replies[call.number] for call in calls]


def _groups(session: Session, calls: Sequence[Call]) -> list[list[Call]]:
    """Calls grouped by settings. Those that can't be pruned are alone."""
    groups: dict[object, list[Call]] = {}
    for call in calls:
        key = repr(sorted(call.settings.items())) if has_video(session, call.prompt) else call.number
        groups.setdefault(key, []).append(call)
    return list(groups.values())


def has_video(session: Session, prompt: Prompt) -> bool:
    """Whether a prompt has a video whose tokens can be dropped.

    Some prompts have only images or text. If a family takes images as the frames of a video, other images in
    the prompt can't be distinguished from frames.
    """
    kind = family_of(session.config.model_type).encoded_as
    if not any("video" in name if kind == "video" else "pixel" in name for name in prompt.inputs):
        return False
    try:
        prompt_layouts(session.config, prompt)
    except LayoutError as error:
        logger.warning(f"a prompt is not pruned: {error}")
        return False
    return True


def _answer(
    session: Session, calls: Sequence[Call], method: Method, reuse_frames: float | None
) -> list[Reply]:
    # A session is greedy by default; lmms-eval's models use the checkpoint's settings then.
    settings = {"do_sample": bool(session.model.generation_config.do_sample), **calls[0].settings}
    longest = max(call.prompt.inputs["input_ids"].shape[1] for call in calls)
    room = session.config.get_text_config().max_position_embeddings - longest
    wanted = min(int(settings.pop("max_new_tokens", room)), max(1, room))
    if not has_video(session, calls[0].prompt):
        return [_without_video(session, call.prompt, wanted, settings) for call in calls]
    answers = session.answer_batch(
        [call.prompt for call in calls],
        method,
        max_new_tokens=wanted,
        reuse_frames=reuse_frames,
        **settings,
    )
    replies = []
    for call, answer in zip(calls, answers, strict=True):
        together = len(answer.report.prompt_tokens)
        asked = call.prompt.inputs["input_ids"]
        said = torch.tensor([answer.token_ids], dtype=asked.dtype, device=asked.device)
        counts = counts_of(answer, together)
        replies.append(Reply(torch.cat([asked, said], dim=1), counts, answer.milliseconds / together))
    return replies


def _without_video(session: Session, prompt: Prompt, wanted: int, settings: dict[str, Any]) -> Reply:
    """Answer without pruning: adatp only drops tokens of videos."""
    begun = time.perf_counter()
    inputs = prompt.to(session.device).inputs
    sequence = session.model.generate(**inputs, max_new_tokens=wanted, **settings)
    milliseconds = 1000 * (time.perf_counter() - begun)
    asked = inputs["input_ids"].shape[1]
    counts = TokenCounts(input_tokens=asked, output_tokens=sequence.shape[1] - asked)
    return Reply(sequence, counts, milliseconds)
