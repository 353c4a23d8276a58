"""Ask a Video LLM about a video: load, prepare, run, collect. What the command line and a server share."""

from __future__ import annotations

import json
import math
import re
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from transformers import AutoConfig, AutoModelForImageTextToText, AutoProcessor, PreTrainedConfig

from adatp.errors import AdaTPError
from adatp.flops import DecoderShape
from adatp.layout import VideoLayout
from adatp.methods import Method
from adatp.models import UnsupportedModelError, family_of
from adatp.report import Report
from adatp.tiny import TinyProcessor
from adatp.video import Video


class LoadError(AdaTPError, ValueError):
    """A model or its processor can't be loaded. The message is one line."""


class PromptError(AdaTPError, ValueError):
    """The question and the video don't make a prompt that the model takes. The message is one line."""


def load_config(source: str) -> Any:
    """Read a checkpoint's config, nothing else, and refuse what can't be pruned.

    Args:
        source: a folder, or the id of a model on the Hugging Face hub.

    Raises:
        LoadError: there is no such checkpoint, or its config is broken.
        UnsupportedModelError: no family file knows the model (a text model, for one).
    """
    local = bool(source) and Path(source).is_dir()
    if not local and not re.fullmatch(r"\w[\w.-]*/\w[\w.-]*", source):
        raise LoadError(f"{source}: no such model folder")
    try:
        raw, _ = PreTrainedConfig.get_config_dict(source)
    except Exception as error:  # the hub's client, transformers and json raise each their own
        where = "no model in this folder" if local else "no such model folder, nor can it be had from the hub"
        raise LoadError(f"{source}: {where} ({_first_line(error)})") from error
    if "model_type" not in raw:
        raise LoadError(f"{source}: no model in this folder (no config.json with a model_type)")
    try:
        family_of(raw["model_type"])
    except UnsupportedModelError as error:
        raise UnsupportedModelError(f"{source}: {error}") from None
    try:
        return AutoConfig.from_pretrained(source)
    except Exception as error:
        raise LoadError(f"{source}: the config is broken ({_first_line(error)})") from error


def load_processor(source: str) -> Any:
    """Load a checkpoint's processor: the embedded model's own, or Hugging Face's.

    Raises:
        LoadError: there is none, it is broken, or it needs a package that is not installed.
    """
    if _is_embedded(source):
        return TinyProcessor.from_pretrained(source)
    if find_spec("torchvision") is None or find_spec("PIL") is None:
        raise LoadError(f'{source}: its video processor needs torchvision: pip install "adatp[hub]"')
    try:
        return AutoProcessor.from_pretrained(source)
    except Exception as error:
        raise LoadError(f"{source}: the processor can't be loaded ({_first_line(error)})") from error


def load_model(source: str, device: str = "auto", dtype: str = "auto") -> Any:
    """Load a checkpoint's weights, ready to generate.

    Args:
        source: a folder, or the id of a model on the hub.
        device: a torch device, or "auto": CUDA where there is one.
        dtype: name of a torch dtype, or "auto": the checkpoint's own.

    Raises:
        LoadError: the weights are missing, broken or incomplete, or there is no such device.
    """
    place = pick_device(device)
    try:
        model, info = AutoModelForImageTextToText.from_pretrained(
            source, dtype=dtype, output_loading_info=True
        )
    except Exception as error:  # safetensors, the hub's client and transformers raise each their own
        raise LoadError(f"{source}: the weights can't be loaded ({_first_line(error)})") from error
    if missing := sorted(info["missing_keys"]):
        raise LoadError(f"{source}: the checkpoint lacks {len(missing)} weights ({missing[0]}, ...)")
    return model.to(place).eval()


def pick_device(device: str) -> str:
    """The device that a request for ``device`` ("auto": CUDA where there is one) is run on.

    Raises:
        LoadError: there is no such device here.
    """
    if device == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:  # torch asserts that it was built for it
        raise LoadError(f"no device {device!r} here ({_first_line(error)})") from error
    return device


def build_inputs(
    processor: Any, config: Any, video: Video, question: str, *, whole: bool = False
) -> dict[str, Any]:
    """Turn a video and a question into the arguments of ``generate``, on the CPU.

    Args:
        processor: the checkpoint's processor.
        config: its config.
        video: frames, sampled already.
        question: asked in the chat template of the model.
        whole: every frame with all its tokens, also where the processor would leave out what stands still.

    Raises:
        PromptError: the question is empty or contains the model's placeholders, or the processor refuses.
    """
    if not question.strip():
        raise PromptError("the question is empty")
    words = processor.tokenizer(question, add_special_tokens=False)["input_ids"]
    placeholders = {getattr(config, name, None) for name in ("video_token_id", "image_token_id")}
    if placeholders & set(words):
        raise PromptError("the question contains the token that stands for a video or an image")
    embedded, family = isinstance(processor, TinyProcessor), family_of(config.model_type)
    shown: list[dict[str, Any]] = [{"type": "video"}]
    options: dict[str, Any] = {"videos": [video.frames]}
    if not family.takes_videos(processor):
        shown = [{"type": "image"} for _ in video.frames]
        options = {"images": [list(video.frames)]}
    elif not embedded:
        # Qwen-VL and others place frames in time by their rate: that of the sample, not of the file.
        rate = len(video.frames) / video.duration if video.duration else None
        metadata = {
            "total_num_frames": len(video.frames),
            "frames_indices": list(range(len(video.frames))),
            "fps": rate,
            "duration": video.duration,
        }
        options |= {"do_sample_frames": False, "video_metadata": [metadata]}
        options |= family.processor_options(processor, every_token=whole)
    content = [*shown, {"type": "text", "text": question}]
    try:
        prompt = processor.apply_chat_template(
            [{"role": "user", "content": content}], tokenize=False, add_generation_prompt=True
        )
        begin = None if embedded else getattr(processor.tokenizer, "bos_token", None)
        if begin and prompt.startswith(begin):  # the template's; the tokenizer would add another
            options["add_special_tokens"] = False
        return dict(processor(text=[prompt], return_tensors="pt", **options))
    except (ValueError, TypeError) as error:
        raise PromptError(f"the processor refuses this video or question ({_first_line(error)})") from error


def seen(processor: Any, video: Video) -> Video:
    """What the model sees of the frames, to draw on: some processors cut out the middle.

    Args:
        processor: the checkpoint's processor.
        video: frames (F, H, W, 3) as given to `build_inputs`.

    Returns:
        The video, its frames cropped, or padded with black, as the processor does it; not resized.
    """
    reader = getattr(processor, "video_processor", None)
    if not getattr(reader, "do_center_crop", False):
        return video
    height, width = video.frames.shape[1:3]
    size, crop = cast(Any, reader).size, cast(Any, reader).crop_size
    if size.height:
        scales = size.height / height, size.width / width
    else:
        longest = (size.longest_edge or math.inf) / max(height, width)
        scales = (min(size.shortest_edge / min(height, width), longest),) * 2
    frames = video.frames
    for axis, (inside, scale) in enumerate(zip((crop.height, crop.width), scales, strict=True), 1):
        wanted, there = round(inside / scale), frames.shape[axis]
        cut = max(0, (there - wanted) // 2)
        frames = frames.take(range(cut, min(there, cut + wanted)), axis)
        missing = max(0, wanted - there)
        frames = np.pad(
            frames, [(missing // 2, missing - missing // 2) if a == axis else (0, 0) for a in range(4)]
        )
    return replace(video, frames=frames)


def check_prompt(config: Any, inputs: Mapping[str, Any], method: Method, max_new_tokens: int) -> None:
    """Refuse, before the weights are loaded, what would fail once they run.

    Raises:
        PromptError: the prompt and the answer don't fit into the model's context.
        BudgetError: the method's FLOPs target is out of reach for this prompt.
        GridError: the method needs frames with all their tokens.
        LayoutError: the prompt's videos can't be laid out.
    """
    ids = inputs["input_ids"]
    text = config.get_text_config()
    longest = text.max_position_embeddings
    if ids.shape[1] + max_new_tokens > longest:
        raise PromptError(
            f"the prompt has {ids.shape[1]} tokens, and {max_new_tokens} more may be answered, but the model "
            f"takes {longest}: ask for fewer frames"
        )
    family = family_of(config.model_type)
    grids = family.grids(config, inputs, None)
    layouts = family.layouts(config, inputs, inputs["attention_mask"].bool(), grids)
    method.check_layouts(layouts)
    for layout in layouts:
        method.schedule(DecoderShape.from_config(text), layout.counts)


@dataclass(frozen=True, eq=False)
class Answer:
    """What the model said, and what that took.

    Attributes:
        text: the answer.
        new_tokens: tokens generated, the end-of-turn token included.
        milliseconds: all of ``generate``.
        report: what the method did.
        layout: where the prompt's visual tokens are.
    """

    text: str
    new_tokens: int
    milliseconds: float
    report: Report
    layout: VideoLayout

    def to_dict(self) -> dict[str, Any]:
        """Plain numbers, strings, lists and dictionaries."""
        return {
            "answer": self.text,
            "new_tokens": self.new_tokens,
            "generate_milliseconds": self.milliseconds,
            "report": self.report.to_dict(),
        }


def answer(
    model: Any, processor: Any, inputs: Mapping[str, Any], question: str, method: Method, max_new_tokens: int
) -> Answer:
    """Generate an answer, greedily, while the method prunes.

    Args:
        model: from `load_model`.
        processor: from `load_processor`.
        inputs: from `build_inputs`.
        question: what was asked: the text whose relevance to the frames is measured.
        method: the pruning method.
        max_new_tokens: at most so many tokens.

    Raises:
        BudgetError: the method's FLOPs target is out of reach for this prompt.
    """
    on_device = {name: value.to(model.device) for name, value in inputs.items()}
    with method(model, processor, question=question) as run:
        begun = time.perf_counter()
        ids = model.generate(**on_device, max_new_tokens=max_new_tokens, do_sample=False)
        new = ids[0, on_device["input_ids"].shape[1] :].tolist()  # waits for the device
        milliseconds = 1000 * (time.perf_counter() - begun)
    text = processor.decode(new, skip_special_tokens=True).strip()
    return Answer(text, len(new), milliseconds, run.report, run.layouts[0])


def _is_embedded(source: str) -> bool:
    try:
        config = json.loads((Path(source) / "processor_config.json").read_text())
    except (OSError, ValueError):
        return False
    return bool(config.get("processor_class") == TinyProcessor.__name__)


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__
