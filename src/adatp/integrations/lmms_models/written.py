"""Prompts that adatp writes itself, for families that lmms-eval has no model of."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch

from adatp.session import Prompt, PromptError, Session
from adatp.session.answer import words_of

Generate = Callable[[Prompt, Mapping[str, Any]], torch.Tensor]
"""Answers a prompt with settings of ``generate``: prompt and answer, (1, L + answer)."""

_IMAGES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff")

MAX_NEW_TOKENS = 128
"""Default length of the longest answer."""


class WrittenPrompts:
    """Prompts of `Session.prepare`, from a request's messages, or from its text and media.

    Args:
        session: whose model is asked.
        frames: how many are sampled of a video.
        simple: whether requests come as text and media.
    """

    def __init__(self, session: Session, frames: int, simple: bool) -> None:
        self._session, self._frames, self._simple = session, frames, simple

    def run(self, request: Any, tasks: Mapping[str, Any], generate: Generate) -> str:
        """Let the model answer one request.

        Args:
            request: lmms-eval's ``Instance``.
            tasks: its ``task_dict``.
            generate: answers the prompt.

        Raises:
            AdaTPError: the video can't be read, or the prompt can't be made.
        """
        if self._simple:
            text, wanted, media, number, task, split = request.arguments
            messages = _messages(text, media(tasks[task][split][number]) or [])
        else:
            _, written, wanted, number, task, split = request.arguments
            messages = [
                {"role": each["role"], "content": _parts(each["content"])}
                for each in written(tasks[task][split][number])
            ]
        prompt = self._session.prepare(None, messages, frames=self._frames)
        sequence = generate(prompt, generation_settings(wanted))
        words = words_of(self._session.processor, sequence[0, prompt.inputs["input_ids"].shape[1] :].tolist())
        return cut_at(words, wanted.get("until"))


def generation_settings(wanted: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of ``generate`` for what a task asks for: greedy without a temperature."""
    temperature = float(wanted.get("temperature") or 0)
    sampling: dict[str, Any] = {"do_sample": False}
    if temperature > 0:
        sampling = {"do_sample": True, "temperature": temperature, "top_p": wanted.get("top_p")}
    return {
        "max_new_tokens": int(wanted.get("max_new_tokens") or MAX_NEW_TOKENS),
        "num_beams": int(wanted.get("num_beams") or 1),
        **sampling,
    }


def cut_at(answer: str, until: str | Sequence[str] | None) -> str:
    """An answer up to the first of the texts at which its task ends it."""
    for end in [until] if isinstance(until, str) else until or []:
        answer = answer.split(end)[0] if end else answer
    return answer


def _messages(text: str, media: Sequence[Any]) -> list[dict[str, Any]]:
    """A simple request as a chat: its media before its text, as lmms-eval's simple models do it."""
    flat = [each for medium in media for each in (medium if isinstance(medium, list) else [medium])]
    shown = [{"type": "image" if _is_image(each) else "video", "url": each} for each in flat]
    words = {"type": "text", "text": text.replace("<image>", "").replace("<video>", "")}
    return [{"role": "user", "content": _parts([*shown, words])}]


def _is_image(medium: Any) -> bool:
    return hasattr(medium, "convert") or str(medium).lower().endswith(_IMAGES)


def _parts(content: Any) -> Any:
    """The parts of lmms-eval's messages in the form of `Session.prepare`."""
    if isinstance(content, str):
        return content
    parts = []
    for part in content:
        kind = part["type"]
        if kind == "text":
            parts.append({"type": "text", "text": part["text"]})
            continue
        if part.get("start_time") is not None or part.get("end_time") is not None:
            raise PromptError("a part of a video (start_time, end_time) can't be shown: cut it out before")
        parts.append({"type": kind, kind: part["url"]})
    return parts
