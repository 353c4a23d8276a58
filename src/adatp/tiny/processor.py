"""Tokenizer and processor of the embedded model: Hugging Face's call API, without torchvision or pillow."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import adatp.torchvision_guard  # noqa: F401  # before transformers

# isort: split
import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers
from transformers import AutoProcessor, BatchFeature, PreTrainedConfig, PreTrainedTokenizerFast
from transformers.image_utils import SizeDict

from .sizes import TOKENS_PER_FRAME
from .world import SIZE, words

SPECIAL = ("<pad>", "<unk>", "<|im_start|>", "<|im_end|>", "<image>", "<video>", "user", "assistant")

Video = NDArray[np.uint8] | torch.Tensor | Sequence[NDArray[np.uint8]]
"""Frames (F, H, W, 3), uint8, RGB: one array, or a list of (H, W, 3)."""


def build_tokenizer() -> PreTrainedTokenizerFast:
    """The word-level tokenizer of the first world."""
    return word_tokenizer(words())


def word_tokenizer(known: Iterable[str]) -> PreTrainedTokenizerFast:
    """A world's word-level tokenizer: lower-cased, left-padded, unknown words become <unk>.

    Args:
        known: the world's words, in the order of the embeddings.
    """
    vocabulary = {word: i for i, word in enumerate(dict.fromkeys((*SPECIAL, *known)))}
    backend = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    backend.normalizer = normalizers.Lowercase()
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        pad_token="<pad>",
        unk_token="<unk>",
        eos_token="<|im_end|>",
        additional_special_tokens=["<|im_start|>", "<image>", "<video>"],
        padding_side="left",
        model_input_names=["input_ids", "attention_mask"],
    )


def pixel_values(video: Video) -> torch.Tensor:
    """Resize frames of any size to 96 x 96 and scale them to -1..1.

    Args:
        video: Frames (F, H, W, 3), uint8.

    Returns:
        float32 (F, 3, 96, 96).

    Raises:
        ValueError: If the frames are not uint8 (F, H, W, 3).
    """
    if not isinstance(video, np.ndarray | torch.Tensor):
        video = np.stack([np.asarray(frame) for frame in video])
    frames = torch.as_tensor(video)
    if frames.ndim != 4 or frames.shape[-1] != 3 or frames.dtype != torch.uint8 or not len(frames):
        got = f"{frames.dtype} of shape {tuple(frames.shape)}"
        raise ValueError(f"a video is uint8 frames of shape (F, H, W, 3), not {got}")
    pixels = torch.cat([_resized(frame[None]) for frame in frames])
    return pixels.div(127.5).sub(1)


def _resized(frames: torch.Tensor) -> torch.Tensor:
    """Frames (F, H, W, 3), uint8, as float32 (F, 3, 96, 96). Floats take four times the memory."""
    pixels = frames.permute(0, 3, 1, 2).float()
    if pixels.shape[-2:] == (SIZE, SIZE):
        return pixels
    return F.interpolate(pixels, size=(SIZE, SIZE), mode="bilinear", antialias=True, align_corners=False)


class TinyVideoProcessor:
    """The part of `TinyProcessor` that reads videos, as in Hugging Face's processors.

    Attributes:
        size: The size that frames are scaled to, pixels.
    """

    size = SizeDict(height=SIZE, width=SIZE)

    def __call__(self, videos: Video | Sequence[Video], *, return_tensors: str = "pt") -> BatchFeature:
        """Scale videos (see `pixel_values`).

        Args:
            videos: One or several, all with the same number of frames F.
            return_tensors: Must be "pt".

        Returns:
            `pixel_values_videos` (number of videos, F, 3, 96, 96), float32.

        Raises:
            ValueError: If videos differ in length or are not uint8 (F, H, W, 3).
        """
        if return_tensors != "pt":
            raise ValueError(f"return_tensors={return_tensors!r} is not supported: only 'pt' is")
        pixels = [pixel_values(video) for video in _as_list(videos)]
        lengths = sorted({len(frames) for frames in pixels})
        if len(lengths) > 1:
            raise ValueError(f"the videos of a batch must have equally many frames, not {lengths}")
        return BatchFeature({"pixel_values_videos": torch.stack(pixels)})


class TinyProcessor:
    """The embedded model's processor: Hugging Face's `LlavaOnevisionProcessor` for video and text.

    It takes the keywords of Hugging Face's processors. `AutoProcessor.from_pretrained` finds it once this
    module is imported.

    Attributes:
        tokenizer: The world's word-level tokenizer, unless another with `<video>` among its tokens was given.
        video_processor: The part that reads videos.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerFast | None = None):
        self.tokenizer = build_tokenizer() if tokenizer is None else tokenizer
        self.video_processor = TinyVideoProcessor()

    def apply_chat_template(
        self,
        conversation: Sequence[Any],
        add_generation_prompt: bool = False,
        tokenize: bool = False,
    ) -> str | list[str]:
        """Write conversations as prompts.

        Args:
            conversation: Messages `{"role": ..., "content": str | [{"type": "video"}, {"type": "text",
                "text": ...}]}`, or a list of such conversations.
            add_generation_prompt: Whether to open the assistant's turn.
            tokenize: Must be False: pass the prompt and its videos to the processor instead.

        Returns:
            The prompt, or one for each conversation. Unlike Qwen's it has no newline tokens, since the
            tokenizer only knows words.

        Raises:
            ValueError: If `tokenize` is set or a content type is neither "video" nor "text".
        """
        if tokenize:
            raise ValueError(
                "tokenize=True is not supported: call the processor with the text and the videos"
            )
        if conversation and not isinstance(conversation[0], dict):
            prompts = (self.apply_chat_template(one, add_generation_prompt) for one in conversation)
            return [prompt for prompt in prompts if isinstance(prompt, str)]
        turns = []
        for message in conversation:
            content = message["content"]
            parts = [{"type": "text", "text": content}] if isinstance(content, str) else content
            unknown = {part["type"] for part in parts} - {"video", "text"}
            if unknown:
                raise ValueError(
                    f"content of type {', '.join(sorted(unknown))}: only video and text are known"
                )
            body = "".join("<video>\n" if part["type"] == "video" else part["text"] for part in parts)
            turns.append(f"<|im_start|>{message['role']} {body}<|im_end|>\n")
        return "".join(turns) + ("<|im_start|>assistant\n" if add_generation_prompt else "")

    def __call__(
        self,
        images: None = None,
        text: str | Sequence[str] = (),
        videos: Video | Sequence[Video] | None = None,
        *,
        padding: bool | str = True,
        add_special_tokens: bool = True,
        do_sample_frames: bool = False,
        video_metadata: Any = None,
        return_tensors: str = "pt",
    ) -> BatchFeature:
        """Turn prompts and their videos into model inputs.

        Args:
            images: Must be None: the model knows videos only.
            text: One prompt or several, with one `<video>` for each video.
            videos: In the order of the `<video>` in the prompts; all with the same number of frames F.
            padding: As in a tokenizer; on the left.
            add_special_tokens: As in a tokenizer.
            do_sample_frames: Must be False: every frame is used.
            video_metadata: Ignored: the model uses no times.
            return_tensors: Must be "pt".

        Returns:
            `input_ids` and `attention_mask` (B, L), int64, each `<video>` expanded to 36 F + 1 tokens, and,
            if there are videos, `pixel_values_videos` (number of videos, F, 3, 96, 96), float32.

        Raises:
            ValueError: If videos differ in length, are not uint8 (F, H, W, 3), or are not as many as the
                `<video>` in the prompts; if there are images.
        """
        if return_tensors != "pt":
            raise ValueError(f"return_tensors={return_tensors!r} is not supported: only 'pt' is")
        if images is not None:
            raise ValueError("images are not supported: this model knows videos only")
        if do_sample_frames:
            raise ValueError("do_sample_frames=True is not supported: sample frames before")
        prompts = [text] if isinstance(text, str) else list(text)
        shown = _as_list(videos)
        pixels = self.video_processor(shown) if shown else BatchFeature()
        asked = sum(prompt.count("<video>") for prompt in prompts)
        if asked != len(shown):
            raise ValueError(f"the text has {asked} <video> but {len(shown)} videos were given")
        if shown:
            frames = pixels["pixel_values_videos"].shape[1]
            expanded = "<video>" * (TOKENS_PER_FRAME * frames + 1)
            prompts = [prompt.replace("<video>", expanded) for prompt in prompts]
        words = self.tokenizer(
            prompts, padding=padding, add_special_tokens=add_special_tokens, return_tensors="pt"
        )
        return BatchFeature({**words, **pixels})

    def batch_decode(self, sequences: Any, **kwargs: Any) -> list[str]:
        """Decode sequences with the tokenizer's `batch_decode`."""
        return list(self.tokenizer.batch_decode(sequences, **kwargs))

    def decode(self, token_ids: Any, **kwargs: Any) -> str:
        """Decode tokens with the tokenizer's `decode`."""
        return str(self.tokenizer.decode(token_ids, **kwargs))

    def save_pretrained(self, path: str | Path) -> None:
        """Write the tokenizer's files and `processor_config.json` into a folder."""
        self.tokenizer.save_pretrained(path)
        config = {"processor_class": type(self).__name__}
        (Path(path) / "processor_config.json").write_text(json.dumps(config, indent=2) + "\n")

    @classmethod
    def from_pretrained(cls, path: str | Path, **_: Any) -> TinyProcessor:
        """Read the files of `save_pretrained`. Other arguments from `AutoProcessor` concern the hub.

        Raises:
            ValueError: If the folder holds another class's processor.
            OSError: If it holds none.
        """
        name = json.loads((Path(path) / "processor_config.json").read_text()).get("processor_class")
        if name != cls.__name__:
            raise ValueError(f"{path} holds a {name}, not a {cls.__name__}")
        return cls(PreTrainedTokenizerFast.from_pretrained(path, trust_remote_code=False))


def _as_list(videos: Any) -> list[Any]:
    """One video or several, as a list of videos. An array of 4 axes, or a list of frames, is one video."""
    if videos is None:
        return []
    if isinstance(videos, np.ndarray | torch.Tensor):
        return [videos] if videos.ndim == 4 else list(videos)
    videos = list(videos)
    return [videos] if videos and getattr(videos[0], "ndim", 0) == 3 else videos


class _TinyProcessorConfig(PreTrainedConfig):  # type: ignore[misc]
    """A config without a model: `AutoProcessor` finds processors by name among those registered with a
    config.
    """

    model_type = "adatp_tiny_processor"


AutoProcessor.register(_TinyProcessorConfig, TinyProcessor, exist_ok=True)
