"""Turns videos, images and a question, or a chat, into a prompt, and checks it before weights are loaded."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray

from adatp.budget import BudgetError
from adatp.checkpoint import CheckpointError, try_out
from adatp.errors import AdaTPError, first_line, is_out_of_memory
from adatp.flops import DecoderShape
from adatp.layout import VideoLayout
from adatp.methods import Method
from adatp.models import family_of
from adatp.numbers_given import is_integer
from adatp.session.errors import PromptError
from adatp.session.fitting import fit_for
from adatp.session.frame_times import metadata, of_frames, times_of
from adatp.session.media import ImageLike, VideoLike, image_of, images_of, sound_of, video_of, videos_of
from adatp.video import Video

Message = Mapping[str, Any]
"""One turn of a chat: ``role`` ("system", "user", "assistant") and ``content``.

The content is a text, or a list of parts: ``{"type": "text", "text": ...}``, ``{"type": "video", "video":
...}`` (a `VideoLike`), ``{"type": "image", "image": ...}`` (an `ImageLike`), ``{"type": "audio", "audio":
...}`` (a `SoundLike`; for omni models).
"""

_FILLED = ("video", "image")
"""Parts that may leave their place to what is given beside the chat."""

_ROLES = ("system", "developer", "user", "assistant", "tool")

_LONG = 50
"""If a processor refuses frames this many times longer than wide, their shape is the reason."""


@dataclass(frozen=True, eq=False)
class Prompt:
    """A question about videos, ready for the model.

    Attributes:
        question: the question; for a chat, the text of its last message. Its relevance to the frames is
            measured.
        text: output of the chat template.
        videos: the frames of each video, in the order of the prompt.
        inputs: arguments of the model's ``generate``, for a batch of one.
        milliseconds: time of ``video`` (reading files) and of ``preprocess`` (the processor).
        model: type and vocabulary of the model that it is for; None: not known.
    """

    question: str
    text: str
    videos: tuple[Video, ...]
    inputs: dict[str, Any]
    milliseconds: dict[str, float]
    model: tuple[str, int] | None = None

    def to(self, device: torch.device | str) -> Prompt:
        """The same prompt with its inputs on a device."""
        return replace(self, inputs={name: value.to(device) for name, value in self.inputs.items()})


@dataclass
class _Chat:
    """Messages in the form of a chat template, and the media that they name, in order."""

    messages: list[dict[str, Any]] = field(default_factory=list)
    videos: list[Video] = field(default_factory=list)
    images: list[NDArray[np.uint8]] = field(default_factory=list)
    sounds: list[NDArray[np.float32]] = field(default_factory=list)
    frames_are_images: bool = False
    fewest_frames: int = 1

    def add_video(self, video: Video) -> list[dict[str, Any]]:
        """Add a video; returns the parts that represent it in a message."""
        video = of_frames(video, self.fewest_frames)
        self.videos.append(video)
        if not self.frames_are_images:
            return [{"type": "video"}]
        self.images += list(video.frames)
        return [{"type": "image"} for _ in video.frames]

    def add_image(self, image: NDArray[np.uint8]) -> list[dict[str, Any]]:
        """Add an image; returns the parts that represent it in a message."""
        self.images.append(image)
        return [{"type": "image"}]

    def media(self) -> dict[str, Any]:
        """Keyword arguments of a processor's call."""
        given: dict[str, Any] = {}
        if not self.frames_are_images:
            given["videos"] = [video.frames for video in self.videos]
        if self.images:
            given["images"] = [self.images]
        if self.sounds:
            given["audio"] = self.sounds
        return given


def build_prompt(
    processor: Any,
    config: Any,
    videos: VideoLike | Sequence[Any] | None,
    question: str | Sequence[Message],
    *,
    images: Sequence[ImageLike] = (),
    frames: int = 32,
    every_token: bool = False,
    strange: bool = False,
) -> Prompt:
    """Read the media and write the prompt (see ``Session.prepare``).

    Args:
        processor: processor of the checkpoint.
        config: config of the checkpoint.
        videos: see there, as for the next four.
        question: see there.
        images: see there.
        frames: see there.
        every_token: see there.
        strange: whether the processor's template and tokenizer have to be tried out first.
    """
    began = time.perf_counter()
    fit = fit_for(processor, config)
    shown, beside = videos_of(videos, frames, fit), images_of(images)
    messages = [{"role": "user", "content": question}] if isinstance(question, str) else question
    if not isinstance(messages, Sequence):
        raise PromptError(f"a question is a text, or a chat as a list of messages, not {question!r}")
    family = family_of(config.model_type)
    chat = _Chat(
        frames_are_images=not family.takes_videos(processor), fewest_frames=family.fewest_frames(processor)
    )
    asked = _write(chat, messages, shown, beside, lambda video: video_of(video, frames, fit))
    if strange:
        _try_out(processor, chat.messages)
    with _processing():
        _check_words(processor, config, chat.messages, asked)
    if not chat.videos:
        raise PromptError("there is no video in the prompt: adatp drops tokens of videos")
    read = time.perf_counter()
    if chat.sounds and getattr(processor, "feature_extractor", None) is None:
        raise PromptError("there is a sound in the prompt, but this model's processor takes none")
    with _processing(chat.videos):
        text = processor.apply_chat_template(chat.messages, tokenize=False, add_generation_prompt=True)
        options = _processor_options(processor, text, [] if chat.frames_are_images else chat.videos)
        options |= family.processor_options(processor, every_token=every_token)
        inputs = dict(processor(text=[text], return_tensors="pt", **chat.media(), **options))
        inputs.pop("video_metadata", None)  # for whoever called the processor, not for the model
        _check_tensors(inputs)
        inputs = family.place_in_time(config, inputs, [times_of(video) for video in chat.videos])
        _check_ids(config, inputs["input_ids"])
    spent = {"video": 1000 * (read - began), "preprocess": 1000 * (time.perf_counter() - read)}
    return Prompt(asked, text, tuple(chat.videos), inputs, spent, _kind_of(config))


def _kind_of(config: Any) -> tuple[str, int]:
    """What tells the prompts of a model from those of another: its type and its number of tokens."""
    return config.model_type, config.get_text_config().vocab_size


def try_processor(processor: Any, config: Any) -> None:
    """Try a stranger's template and tokenizer with some question about a video.

    Raises:
        PromptError: they take too much time or memory.
    """
    kind = "video" if family_of(config.model_type).takes_videos(processor) else "image"
    parts = [{"type": kind}, {"type": "text", "text": "What happens in the video?"}]
    _try_out(processor, [{"role": "user", "content": parts}])


def _try_out(processor: Any, messages: list[dict[str, Any]]) -> None:
    """Refuse a chat template or a tokenizer that takes too much time or memory for these messages."""

    def work() -> None:
        for message in messages:
            for part in message["content"]:
                if part["type"] == "text":
                    processor.tokenizer(part["text"], add_special_tokens=False)
        processor.tokenizer(
            processor.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
        )

    try:
        try_out(work)
    except CheckpointError as error:
        raise PromptError(f"the processor refuses this video or question ({error})") from error


@contextmanager
def _processing(videos: Sequence[Video] = ()) -> Iterator[None]:
    """Turn errors of a checkpoint's processor, tokenizer or template into one line.

    Args:
        videos: the videos that it processes.
    """
    try:
        yield
    except AdaTPError:
        raise
    except Exception as error:  # any kind: its settings are the checkpoint's
        if is_out_of_memory(error):
            raise
        refused = "the processor refuses this video or question"
        sizes = [video.frames.shape[1:3] for video in videos]
        height, width = max(sizes, key=lambda size: max(size) / min(size), default=(1, 1))
        if max(height, width) > _LONG * min(height, width):
            refused = f"frames of {width} x {height} pixels are too long and narrow for this model"
        raise PromptError(f"{refused} ({first_line(error)})") from error


def _check_tensors(inputs: Mapping[str, Any]) -> None:
    """Refuse inputs that can't be moved to a device, nor put into a batch."""
    for name, value in inputs.items():
        if not isinstance(value, torch.Tensor):
            raise PromptError(
                f"the processor makes an input {name} that is a {type(value).__name__}, no tensor"
            )


def _check_ids(config: Any, ids: Any) -> None:
    """Refuse tokens that the model has no embedding for: they come from another model's tokenizer."""
    known, largest = config.get_text_config().vocab_size, int(ids.max())
    if largest >= known:
        raise PromptError(
            f"the tokenizer makes a token number {largest}, but the model knows {known}: they don't fit"
        )


def _processor_options(processor: Any, text: str, videos: Sequence[Video]) -> dict[str, Any]:
    """Keyword arguments of a processor's call besides text, videos and images."""
    options: dict[str, Any] = {}
    if videos:
        options |= {"do_sample_frames": False, "video_metadata": [metadata(video) for video in videos]}
    begin = getattr(processor.tokenizer, "bos_token", None)
    if begin and text.startswith(begin):  # the template's; the tokenizer would add another
        options["add_special_tokens"] = False
    return options


def _write(
    chat: _Chat,
    messages: Sequence[Message],
    videos: list[Video],
    images: list[NDArray[np.uint8]],
    read: Callable[[Any], Video],
) -> str:
    """Fill ``chat`` with the messages. Returns the text of the last one.

    Videos and images given separately fill the empty places in the messages (``{"type": "video"}``). Without
    such places they come before the first user's text.
    """
    contents = [_parts(message) for message in messages]
    if not contents or messages[-1]["role"] != "user":
        raise PromptError("a chat ends with a message of the user, which is the question")
    places = [part for parts in contents for part in parts if part["type"] in _FILLED and _empty(part)]
    if not places:
        first = next(i for i, message in enumerate(messages) if message["role"] == "user")
        contents[first] = [
            *({"type": "image", "image": image} for image in images),
            *({"type": "video", "video": video} for video in videos),
            *contents[first],
        ]
    waiting: dict[str, Iterator[Any]] = {"video": iter(videos), "image": iter(images)}
    if places:
        for kind, given in (("video", videos), ("image", images)):
            if (asked := sum(part["type"] == kind for part in places)) != len(given):
                raise PromptError(f"the chat has places for {asked} {kind}s, but {len(given)} were given")
    for message, parts in zip(messages, contents, strict=True):
        content: list[dict[str, Any]] = []
        for part in parts:
            kind = part["type"]
            if kind == "text":
                content.append({"type": "text", "text": part["text"]})
                continue
            empty = kind in waiting and _empty(part)
            medium = next(waiting[kind]) if empty else part.get(kind, part.get("path"))
            if kind == "video":
                content += chat.add_video(read(medium))
            elif kind == "audio":
                chat.sounds.append(sound_of(medium))
                content.append({"type": "audio"})
            else:
                content += chat.add_image(image_of(medium))
        chat.messages.append({"role": message["role"], "content": content})
    return "\n".join(part["text"] for part in contents[-1] if part["type"] == "text")


def _parts(message: Message) -> list[Mapping[str, Any]]:
    """The parts of one message. A text is one part."""
    if not isinstance(cast(object, message), Mapping) or not {"role", "content"} <= set(message):
        raise PromptError("every message of a chat has a role and a content")
    if message["role"] not in _ROLES:
        raise PromptError(f"a message's role is one of {', '.join(_ROLES)}, not {message['role']!r}")
    content = message["content"]
    parts = [{"type": "text", "text": content}] if isinstance(content, str) else content
    if not isinstance(parts, Sequence) or not all(isinstance(part, Mapping) for part in parts):
        raise PromptError(f"a message's content is a text, or a list of parts with a type, not {content!r}")
    for part in parts:
        if part.get("type") not in ("text", "video", "image", "audio"):
            raise PromptError(
                f"content of type {part.get('type')!r}: only text, video, image and audio are known"
            )
        if part["type"] == "text" and not isinstance(part.get("text"), str):
            raise PromptError("a part of type text has its text under 'text'")
    return list(parts)


def _empty(part: Mapping[str, Any]) -> bool:
    """Whether a part marks the place of a video or an image without naming one."""
    return part.get(part["type"], part.get("path")) is None


def _check_words(processor: Any, config: Any, messages: Sequence[Message], question: str) -> None:
    """Refuse an empty question, and text that would be read as a video or an image."""
    if not question.strip():
        raise PromptError("the question is empty")
    texts = [part["text"] for message in messages for part in message["content"] if part["type"] == "text"]
    if any("\ud800" <= character <= "\udfff" for text in texts for character in text):
        raise PromptError("the question is not UTF-8 text")
    named = ("video_token_id", "image_token_id", "audio_token_id")
    placeholders = {getattr(config, name, None) for name in named}
    for message in messages:
        for part in message["content"]:
            if part["type"] != "text":
                continue
            words = processor.tokenizer(part["text"], add_special_tokens=False)["input_ids"]
            if placeholders & set(words):
                where = "question" if message is messages[-1] else "chat"
                raise PromptError(f"the {where} contains the token that stands for a video or an image")


def check_prompt(
    config: Any, prompt: Prompt, method: Method, max_new_tokens: int, strict: bool = True
) -> None:
    """Refuse, before the weights are loaded, what would fail once they run (see ``Session.check``)."""
    if isinstance(method, type) or not hasattr(method, "check_layouts"):
        raise PromptError(f"a method is an object such as AdaTP(), not {method!r}")
    if not is_integer(max_new_tokens) or max_new_tokens < 0:  # 0: it is only read
        raise PromptError(f"max_new_tokens is a whole number, at least 1, not {max_new_tokens!r}")
    if prompt.model not in (None, _kind_of(config)):
        raise PromptError("the prompt was made for another model: prepare it with this session")
    _check_length(config, prompt, max_new_tokens)
    layouts = prompt_layouts(config, prompt)
    method.check_layouts(layouts)
    for layout in layouts:
        try:
            method.schedule(DecoderShape.from_config(config.get_text_config()), layout.counts)
        except BudgetError as error:
            if strict or error.least is None:
                raise


def _check_length(config: Any, prompt: Prompt, max_new_tokens: int) -> None:
    """Refuse a prompt that is too long with its answer, and say which of the two to shorten."""
    tokens = prompt.inputs["input_ids"].shape[1]
    longest = config.get_text_config().max_position_embeddings
    if tokens + max_new_tokens <= longest:
        return
    text = min(layout.counts.other for layout in prompt_layouts(config, prompt))
    hint = "ask for fewer frames"
    if text + max_new_tokens >= longest:  # without room for one token of a frame
        hint = "ask for a shorter answer (max_new_tokens, or a request's max_tokens)"
    if text >= longest:
        hint = "shorten the text"
    raise PromptError(
        f"the prompt has {tokens} tokens, and {max_new_tokens} more may be answered, but the model takes "
        f"{longest}: {hint}"
    )


def prompt_layouts(config: Any, prompt: Prompt) -> list[VideoLayout]:
    """Layouts of the prompt's visual tokens, from its inputs alone.

    Raises:
        LayoutError: the prompt's videos can't be laid out.
    """
    family = family_of(config.model_type)
    grids = family.grids(config, prompt.inputs, None)
    return family.layouts(config, prompt.inputs, prompt.inputs["attention_mask"].bool(), grids)
