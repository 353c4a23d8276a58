"""Answers in the form of the OpenAI API: one JSON object, or events while the text is generated."""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import AsyncIterator, Callable
from typing import Any

from starlette.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

from adatp.serve.desk import Conversation, Piece
from adatp.serve.errors import GoneError, RequestError, error_body
from adatp.serve.protocol import AnswerMessage, ChatCompletion, Choice


async def completion(conversation: Conversation, model: str) -> ChatCompletion:
    """All answers at once.

    Raises:
        RequestError, GoneError: there are none.
    """
    texts = [""] * conversation.count
    reasons: dict[int, Any] = {}
    async for piece in conversation.pieces():
        texts[piece.index] += piece.text
        if piece.finish is not None:
            reasons[piece.index] = piece.finish
    choices = [
        Choice(index=index, message=AnswerMessage(content=text), finish_reason=reasons[index])
        for index, text in enumerate(texts)
    ]
    return ChatCompletion(
        id=_new_id(), created=int(time.time()), model=model, choices=choices, usage=conversation.usage()
    )


def _new_id() -> str:
    return f"chatcmpl-{uuid.uuid4().hex}"


async def events(conversation: Conversation, model: str) -> AsyncIterator[bytes]:
    """Server-sent events: a chunk per piece, the usage if it was requested, and ``[DONE]``."""
    head = {"id": _new_id(), "object": "chat.completion.chunk", "created": int(time.time()), "model": model}
    options = conversation.call.stream_options
    with_usage = options is not None and options.include_usage
    usage: dict[str, Any] = {"usage": None} if with_usage else {}
    try:
        for index in range(conversation.count):
            delta = {"role": "assistant", "content": ""}
            yield _event({**head, "choices": [_choice(index, delta)], **usage})
        async for piece in conversation.pieces():
            yield _event({**head, "choices": [_choice_of(piece)], **usage})
        if with_usage:
            yield _event({**head, "choices": [], "usage": conversation.usage().model_dump()})
        yield b"data: [DONE]\n\n"
    except RequestError as error:  # the status is sent already
        yield _event(error_body(error.status, str(error), error.param))
    except GoneError:
        return


def _event(content: dict[str, Any]) -> bytes:
    return f"data: {json.dumps(content)}\n\n".encode()


def _choice_of(piece: Piece) -> dict[str, Any]:
    return _choice(piece.index, {"content": piece.text} if piece.text else {}, piece.finish)


def _choice(index: int, delta: dict[str, Any], finish: str | None = None) -> dict[str, Any]:
    return {"index": index, "delta": delta, "finish_reason": finish, "logprobs": None}


class HeldResponse(StreamingResponse):
    """A stream that releases its resources however it ends, even before it begins."""

    def __init__(self, content: AsyncIterator[bytes], let_go: Callable[[], object]) -> None:
        super().__init__(content, media_type="text/event-stream", headers={"Cache-Control": "no-store"})
        self._let_go = let_go

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the stream to the client."""
        try:
            await super().__call__(scope, receive, send)
        finally:
            self._let_go()
