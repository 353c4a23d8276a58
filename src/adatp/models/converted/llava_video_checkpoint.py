"""Converts official checkpoints of LLaVA-Video to checkpoints that transformers' own classes read."""

from __future__ import annotations

import json
import math
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor
from transformers import (
    AddedToken,
    AutoTokenizer,
    LlavaOnevisionImageProcessorPil,
    LlavaOnevisionVideoProcessor,
    Qwen2Config,
    SiglipVisionConfig,
)

from adatp.checkpoint.errors import CheckpointError
from adatp.checkpoint.files import check_files
from adatp.checkpoint.numbers import check_numbers
from adatp.errors import RefusedError, first_line, is_out_of_memory
from adatp.models.converted.llava_video import (
    LlavaVideoConfig,
    LlavaVideoForConditionalGeneration,
    LlavaVideoProcessor,
    register_with_transformers,
)

EXPECTED = {
    "mm_newline_position": "grid",
    "mm_spatial_pool_mode": "bilinear",
    "mm_projector_type": "mlp2x_gelu",
    "mm_vision_select_layer": -2,
    "add_faster_video": False,
}
"""Values of an official config that the converted model implements. Others are refused."""
_STRIDE = 2
_TOWER, _PROJECTOR, _NEWLINE = (
    "model.vision_tower.vision_tower.",
    "model.mm_projector.",
    "model.image_newline",
)
_SO400M = {"num_attention_heads": 16, "image_size": 384, "patch_size": 14}
_IMAGE, _VIDEO = "<image>", "<video>"
TEMPLATE = (
    "{% if messages[0]['role'] != 'system' %}"
    "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n{% endif %}"
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n"
    "{% if message['content'] is string %}{{ message['content'] }}{% else %}"
    "{% for part in message['content'] %}"
    "{% if part['type'] == 'video' %}<video>\n{% elif part['type'] == 'image' %}<image>\n"
    "{% else %}{{ part['text'] }}{% endif %}{% endfor %}{% endif %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
"""The conversation template `qwen_1_5` of the official code."""


def convert(source: Path, dest: Path, tower: Path | None = None) -> None:
    """Convert one checkpoint. If that fails, nothing is left at ``dest``.

    Args:
        source: folder of the official checkpoint: config, tokenizer, weights in safetensors.
        dest: folder to write, which must not exist.
        tower: folder of its SigLIP, if that is not so400m-patch14-384 or the checkpoint lacks its weights.

    Raises:
        RefusedError: the folder has no such checkpoint, or one that is broken or differs from what can be
            converted, or the new folder can't be written.
    """
    register_with_transformers()
    if os.path.lexists(dest):
        raise RefusedError(f"{dest} exists already")
    with _one_reason(source, dest):
        check_files(source)
        raw = _official_config(source)
        weights = _weights(source)
        if not any(name.startswith(_TOWER) for name in weights):
            weights |= _tower_weights(source, tower)
        tokenizer = AutoTokenizer.from_pretrained(source, trust_remote_code=False)
        words = [AddedToken(word, special=True, normalized=False) for word in (_IMAGE, _VIDEO)]
        tokenizer.add_tokens(words)
        if len(tokenizer) > raw["vocab_size"]:
            raise RefusedError(
                f"{source}: the vocabulary has no room for the placeholders of images and videos"
            )
        vision = _vision_config(weights, tower)
        config = _config(raw, vision, tokenizer, tied="lm_head.weight" not in weights)
        near = next(folder for folder in dest.absolute().parents if folder.exists())
        with tempfile.TemporaryDirectory(dir=near) as made:
            _save_model(config, weights, Path(made))
            _processor(vision, tokenizer).save_pretrained(made)
            if (source / "generation_config.json").is_file():
                shutil.copy(source / "generation_config.json", made)
            Path(made).chmod(0o755)
            dest.parent.mkdir(parents=True, exist_ok=True)
            Path(made).rename(dest)
            Path(made).mkdir()  # for the context to remove


@contextmanager
def _one_reason(source: Path, dest: Path) -> Iterator[None]:
    """Turn every error of a conversion into one line: a stranger's checkpoint can break any step of it."""
    try:
        yield
    except RefusedError:
        raise
    except CheckpointError as error:
        raise RefusedError(f"{source}: {error}") from error
    except OSError as error:
        if error.filename is None or Path(os.fsdecode(error.filename)).is_relative_to(source):
            raise RefusedError(f"{source}: can't be converted ({first_line(error)})") from error
        raise RefusedError(f"{dest}: can't be written ({error.strerror})") from error
    except Exception as error:
        if is_out_of_memory(error):
            raise
        reason = f"no {error.args[0]}" if isinstance(error, KeyError) else first_line(error)
        raise RefusedError(f"{source}: can't be converted ({reason})") from error


def _official_config(source: Path) -> dict[str, Any]:
    file = source / "config.json"
    if not file.is_file():
        raise RefusedError(f"{source}: no config.json in this folder")
    raw: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    if raw.get("model_type") != "llava_qwen":
        raise RefusedError(
            f"{source}: no LLaVA-Video with Qwen2 (its model_type is {raw.get('model_type')!r})"
        )
    check_numbers(raw)
    for name, value in EXPECTED.items():
        if raw.get(name, value) != value:
            raise RefusedError(f"{source}: {name} is {raw[name]!r}, only {value!r} can be converted")
    if raw.get("mm_spatial_pool_stride", _STRIDE) != _STRIDE:
        raise RefusedError(
            f"{source}: mm_spatial_pool_stride is {raw['mm_spatial_pool_stride']!r}, not {_STRIDE}"
        )
    return raw


def _tower_weights(source: Path, tower: Path | None) -> dict[str, Tensor]:
    """The weights of a vision tower in a folder of its own, under the names of the checkpoint."""
    if tower is None:
        raise RefusedError(
            f"{source}: the vision tower's weights are not here: name its folder (--vision-tower)"
        )
    found = _weights(tower).items()
    return {f"{_TOWER}{name}": part for name, part in found if "text_model" not in name}


def _weights(folder: Path) -> dict[str, Tensor]:
    files = sorted(folder.glob("*.safetensors"))
    if not files:
        raise RefusedError(f"{folder}: no weights in safetensors in this folder")
    if odd := [file.name for file in files if not file.is_file()]:
        raise RefusedError(f"{folder}: {odd[0]} is not a regular file")
    found: dict[str, Tensor] = {}
    for file in files:
        found |= load_file(file)
    return found


def _vision_config(weights: Mapping[str, Tensor], tower: Path | None) -> SiglipVisionConfig:
    """Sizes from the weights; the rest from the tower's own config. No pooling head."""
    inside = {name.removeprefix(_TOWER).removeprefix("vision_model."): part for name, part in weights.items()}
    layers = {int(name.split(".")[2]) for name in inside if name.startswith("encoder.layers.")}
    own = dict(_SO400M)
    if tower is not None:
        said = SiglipVisionConfig.from_pretrained(tower, trust_remote_code=False)
        own = {name: getattr(said, name) for name in own}
        layers = {layer for layer in layers if layer < said.num_hidden_layers - 1}  # the last one is not used
    patch = inside["embeddings.patch_embedding.weight"]
    side = math.isqrt(len(inside["embeddings.position_embedding.weight"]))
    return SiglipVisionConfig(
        **{
            **own,
            "patch_size": patch.shape[-1],
            "image_size": max(own["image_size"], side * patch.shape[-1]),
        },
        hidden_size=len(patch),
        num_hidden_layers=len(layers),
        intermediate_size=len(inside["encoder.layers.0.mlp.fc1.weight"]),
        vision_use_head=False,
    )


def _config(raw: dict[str, Any], vision: SiglipVisionConfig, tokenizer: Any, tied: bool) -> LlavaVideoConfig:
    text = {
        name: value for name, value in raw.items() if name in Qwen2Config().to_dict() and name != "model_type"
    }
    text.pop("architectures", None)
    return LlavaVideoConfig(
        text_config=Qwen2Config(**{**text, "tie_word_embeddings": tied}),
        vision_config=vision,
        image_token_index=tokenizer.convert_tokens_to_ids(_IMAGE),
        video_token_index=tokenizer.convert_tokens_to_ids(_VIDEO),
        vision_feature_layer=-1,  # the official tower lacks its last layer
        vision_feature_select_strategy="full",
        image_grid_pinpoints=raw.get("image_grid_pinpoints")
        if isinstance(raw.get("image_grid_pinpoints"), list)
        else None,
        tie_word_embeddings=tied,
        architectures=["LlavaVideoForConditionalGeneration"],
    )


def _save_model(config: LlavaVideoConfig, weights: Mapping[str, Tensor], folder: Path) -> None:
    with torch.device("meta"):
        model = LlavaVideoForConditionalGeneration(config)
    wanted = model.state_dict()
    renamed = {new: part for name, part in weights.items() if (new := _new_name(name, wanted)) in wanted}
    if config.tie_word_embeddings:
        renamed["lm_head.weight"] = renamed["model.language_model.embed_tokens.weight"]
    wrong = [
        name for name, part in wanted.items() if name not in renamed or renamed[name].shape != part.shape
    ]
    if wrong:
        raise RefusedError(f"the checkpoint lacks {len(wrong)} weights, or has others ({wrong[0]}, ...)")
    model.load_state_dict(renamed, assign=True)
    model.config.dtype = renamed["model.image_newline"].dtype
    model.save_pretrained(folder)


def _new_name(name: str, wanted: Mapping[str, Tensor]) -> str:
    if name == "lm_head.weight":
        return name
    if name == _NEWLINE:
        return "model.image_newline"
    if name.startswith(_PROJECTOR):
        return name.replace(f"{_PROJECTOR}0.", "model.multi_modal_projector.linear_1.").replace(
            f"{_PROJECTOR}2.", "model.multi_modal_projector.linear_2."
        )
    if name.startswith(_TOWER):
        inside = name.removeprefix(_TOWER)
        full = f"model.vision_tower.{inside}"  # some versions of transformers wrap the tower, some do not
        return full if full in wanted else f"model.vision_tower.{inside.removeprefix('vision_model.')}"
    return name.replace("model.", "model.language_model.", 1)


def _processor(vision: SiglipVisionConfig, tokenizer: Any) -> LlavaVideoProcessor:
    """Frames are resized to the square, whatever their shape. Pixels lie between -1 and 1."""
    look: dict[str, Any] = {
        "size": {"height": vision.image_size, "width": vision.image_size},
        "image_mean": [0.5] * 3,
        "image_std": [0.5] * 3,
        "resample": 3,
    }
    return LlavaVideoProcessor(
        image_processor=LlavaOnevisionImageProcessorPil(**look),
        tokenizer=tokenizer,
        video_processor=LlavaOnevisionVideoProcessor(**look),
        num_image_tokens=(vision.image_size // vision.patch_size) ** 2,
        vision_feature_select_strategy="full",
        chat_template=TEMPLATE,
    )
