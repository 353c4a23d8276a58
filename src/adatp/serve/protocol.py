"""Requests and answers as types, in the terms of the OpenAI API."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from adatp.serve.bodies import check_shape
from adatp.serve.errors import RequestError
from adatp.serve.settings import LONGEST_STOP, MOST_MESSAGES, MOST_STOPS

_STRICT = ConfigDict(strict=True, extra="forbid", allow_inf_nan=False)
_INT64 = 2**63 - 1


class TextPart(BaseModel):
    """A part of a message with text."""

    model_config = _STRICT
    type: Literal["text"]
    text: str


class MediaUrl(BaseModel):
    """The location of a video or an image: a ``data:`` URL, or an allowed ``file://`` or ``https://`` one."""

    model_config = _STRICT
    url: str
    detail: Literal["auto", "low", "high"] | None = Field(None, description="Has no effect.")


class VideoPart(BaseModel):
    """A part of a message with a video."""

    model_config = _STRICT
    type: Literal["video_url"]
    video_url: MediaUrl


class ImagePart(BaseModel):
    """A part of a message with an image. Its tokens are never dropped."""

    model_config = _STRICT
    type: Literal["image_url"]
    image_url: MediaUrl


Part = Annotated[TextPart | VideoPart | ImagePart, Field(discriminator="type")]


class ChatMessage(BaseModel):
    """One turn of a chat. The last one is the user's: its text is the question."""

    model_config = _STRICT
    role: Literal["system", "developer", "user", "assistant"]
    content: str | Annotated[list[Part], Field(max_length=256)]
    name: str | None = Field(None, description="Has no effect.")


class StreamOptions(BaseModel):
    """How an answer is streamed."""

    model_config = _STRICT
    include_usage: bool = Field(False, description="Whether a last chunk has the usage.")
    include_obfuscation: bool | None = Field(None, description="Has no effect.")


class ChatRequest(BaseModel):
    """A chat with videos, of which the last message is to be answered."""

    model_config = _STRICT
    model: str | None = Field(None, description="The name that /v1/models shows.")
    messages: list[ChatMessage] = Field(min_length=1, max_length=MOST_MESSAGES)
    method: str | None = Field(None, max_length=64, description="adatp: the pruning method.")
    flops: float | None = Field(
        None, gt=0, le=1, description="adatp: FLOPs of the decoder's prefill, a fraction of vanilla's."
    )
    strict: bool = Field(
        False, description="adatp: refuse flops out of reach; else the least that the method can do is run."
    )
    frames: int | None = Field(None, ge=1, le=_INT64, description="adatp: frames sampled from each video.")
    max_tokens: int | None = Field(None, ge=1, le=_INT64, description="Longest answer, in tokens.")
    max_completion_tokens: int | None = Field(None, ge=1, le=_INT64, description="The same.")
    temperature: float | None = Field(None, ge=0, le=2, description="0, or none: the likeliest token.")
    top_p: float | None = Field(None, gt=0, le=1, description="Share of probability that is drawn from.")
    seed: int | None = Field(None, ge=-_INT64, le=_INT64, description="Equal seeds draw equal answers.")
    n: int | None = Field(None, ge=1, le=128, description="Answers to give.")
    stop: str | list[str] | None = Field(None, description="Texts that end the answer before them.")
    ignore_eos: bool = Field(False, description="vLLM's: go on until max_tokens, to measure with.")
    stream: bool | None = False
    stream_options: StreamOptions | None = None
    # Many clients send these; nothing in this server depends on them.
    user: str | None = None
    store: bool | None = None
    metadata: dict[str, str] | None = None
    service_tier: str | None = None
    parallel_tool_calls: bool | None = None
    # Not supported: only the neutral value is accepted.
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    logprobs: bool | None = None
    top_logprobs: int | None = None
    logit_bias: dict[str, float] | None = None
    tools: list[Any] | None = None
    tool_choice: str | None = None
    response_format: dict[str, Any] | None = None

    @property
    def stops(self) -> tuple[str, ...]:
        """The texts that end the answer."""
        return (self.stop,) if isinstance(self.stop, str) else tuple(self.stop or ())


class Usage(BaseModel):
    """Costs of a request.

    ``prompt_tokens`` are those of the unpruned prompt. Of them ``kept_tokens`` are left in the last layer.
    ``visual_tokens`` and ``visual_tokens_kept`` are the same for the visual tokens alone. ``flops_ratio`` is
    the cost of the decoder's prefill, as a fraction of vanilla's. ``out_of_reach`` says why the target was
    missed, if it was: then it is the least that the method can do.
    """

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    kept_tokens: int
    visual_tokens: int
    visual_tokens_kept: int
    flops_ratio: float
    method: str
    out_of_reach: str | None = None


class AnswerMessage(BaseModel):
    """The message that the model generated."""

    role: Literal["assistant"] = "assistant"
    content: str


class Choice(BaseModel):
    """One of the answers to a request."""

    index: int
    message: AnswerMessage
    finish_reason: Literal["stop", "length"]
    logprobs: None = None


class ChatCompletion(BaseModel):
    """The answers to a request."""

    id: str
    object: Literal["chat.completion"] = "chat.completion"
    created: int
    model: str
    choices: list[Choice]
    usage: Usage


class ErrorFacts(BaseModel):
    """The reason why there is no answer."""

    message: str
    type: str
    param: str | None
    code: int


class ErrorReply(BaseModel):
    """An error instead of an answer."""

    error: ErrorFacts


_NOT_DONE = ("logprobs", "top_logprobs", "logit_bias", "tools", "presence_penalty", "frequency_penalty")


def parse(body: bytes | bytearray) -> ChatRequest:
    """Parse a body as a chat request.

    Raises:
        RequestError: it is no JSON, or contains something unknown or unsupported.
    """
    check_shape(body)
    try:
        call = ChatRequest.model_validate_json(body)
    except ValidationError as error:
        # The message has neither the input, which may be long, nor pages of documentation.
        found = error.errors(include_url=False, include_context=False, include_input=False)
        facts = max(found, key=lambda each: len(each["loc"]))  # of alternatives, the one that got furthest
        steps = [str(step) for step in facts["loc"] if "[" not in str(step)]  # without the names of types
        where = ".".join(steps)[:200] or None
        message = facts["msg"][:300]
        if facts["type"] == "extra_forbidden":
            message = "this server does not know the field"
        raise RequestError(400, f"{where}: {message}" if where else message, where) from None
    for name in _NOT_DONE:
        if getattr(call, name):
            raise RequestError(400, f"{name}: this server does not do that; leave it out", name)
    if call.tool_choice not in (None, "none", "auto"):
        raise RequestError(400, "tool_choice: this server knows no tools", "tool_choice")
    if call.response_format is not None and call.response_format.get("type") != "text":
        raise RequestError(400, "response_format: only text is answered", "response_format")
    if len(call.stops) > MOST_STOPS or not all(0 < len(stop) <= LONGEST_STOP for stop in call.stops):
        message = f"stop: up to {MOST_STOPS} texts of 1 to {LONGEST_STOP} characters"
        raise RequestError(400, message, "stop")
    return call
