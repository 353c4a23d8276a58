"""Small random checkpoints of the families on disk, with real processors, of sizes that vLLM takes on a CPU.

vLLM's attention on a CPU needs heads of 32 numbers, so the models are wider than those of `families`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from transformers import (
    InternVLConfig,
    InternVLForConditionalGeneration,
    LlavaOnevisionConfig,
    LlavaOnevisionForConditionalGeneration,
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    Qwen2Config,
    Qwen3_5Config,
    Qwen3_5ForConditionalGeneration,
    Qwen3_5Tokenizer,
    Qwen3VLConfig,
    Qwen3VLForConditionalGeneration,
    SiglipVisionConfig,
)

from families import END, IMAGE, PAD, QWEN_TOKENS, VIDEO
from processors import QWEN_WORDS, internvl, llava_onevision, qwen2_5_vl, qwen3_vl

WIDTH = 128

TEXT: dict[str, Any] = {
    "hidden_size": WIDTH,
    "intermediate_size": 128,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 128,
    "max_position_embeddings": 4096,
    "pad_token_id": PAD,
    "bos_token_id": None,
    "eos_token_id": None,
    "tie_word_embeddings": False,
}
ROPE = {"rope_type": "default", "mrope_section": [4, 6, 6], "rope_theta": 1e4}
QWEN_VISION: dict[str, Any] = {
    "depth": 2,
    "hidden_size": 64,
    "intermediate_size": 64,
    "num_heads": 2,
    "out_hidden_size": WIDTH,
    "patch_size": 4,
}


def qwen2_5_vl_model() -> Any:
    vision = {**QWEN_VISION, "window_size": 16, "fullatt_block_indexes": [1]}
    config = Qwen2_5_VLConfig(
        text_config={**TEXT, "rope_parameters": ROPE}, vision_config=vision, **QWEN_TOKENS
    )
    return Qwen2_5_VLForConditionalGeneration(config)


def qwen3_vl_model() -> Any:
    vision = {
        **QWEN_VISION,
        "depth": 4,
        "num_position_embeddings": 64,
        "deepstack_visual_indexes": [0, 1, 2],
    }
    config = Qwen3VLConfig(
        text_config={**TEXT, "rope_parameters": {**ROPE, "mrope_interleaved": True}, "head_dim": 32},
        vision_config=vision,
        **QWEN_TOKENS,
    )
    return Qwen3VLForConditionalGeneration(config)


def qwen3_5_model() -> Any:
    kinds = ["linear_attention", "full_attention", "linear_attention", "full_attention"]
    rope = {**ROPE, "mrope_section": [2, 3, 3], "mrope_interleaved": True, "partial_rotary_factor": 0.5}
    text = {
        **TEXT,
        "rope_parameters": rope,
        "layer_types": kinds,
        "head_dim": 32,
        "linear_num_key_heads": 2,
        "linear_num_value_heads": 4,
        "linear_key_head_dim": 128,
        "linear_value_head_dim": 128,
    }
    config = Qwen3_5Config(
        text_config=text, vision_config={**QWEN_VISION, "num_position_embeddings": 64}, **QWEN_TOKENS
    )
    return Qwen3_5ForConditionalGeneration(config)


def llava_onevision_model() -> Any:
    vision = SiglipVisionConfig(
        hidden_size=64,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        image_size=16,
        patch_size=4,
        vision_use_head=False,
    )
    config = LlavaOnevisionConfig(
        text_config=Qwen2Config(**TEXT),
        vision_config=vision,
        image_token_id=IMAGE,
        video_token_id=VIDEO,
        image_grid_pinpoints=[[16, 16]],
        vision_feature_layer=-1,
        vision_feature_select_strategy="full",
    )
    return LlavaOnevisionForConditionalGeneration(config)


def internvl_model() -> Any:
    vision = {
        "hidden_size": 64,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "image_size": [32, 32],
        "patch_size": [4, 4],
    }
    config = InternVLConfig(
        text_config=Qwen2Config(**TEXT),
        vision_config=vision,
        image_token_id=IMAGE,
        image_seq_length=16,
        tie_word_embeddings=False,
    )
    return InternVLForConditionalGeneration(config)


def qwen3_processor() -> Any:
    """vLLM normalises images and videos by the same numbers; so do the checkpoints on the hub."""
    made = qwen3_vl()
    made.image_processor.image_mean = made.video_processor.image_mean
    made.image_processor.image_std = made.video_processor.image_std
    return made


def qwen3_5_processor() -> Any:
    """With the tokenizer that transformers takes for Qwen3.5 whatever its files name: a token a letter."""
    made = qwen3_processor()
    letters = "abcdefghijklmnopqrstuvwxyz0123456789.<>?" + "\u0120\u010a"  # a blank, a new line
    free = (number for number in range(1, 100) if number not in QWEN_WORDS)
    vocabulary = {token: number for number, token in QWEN_WORDS.items()}
    vocabulary |= {letter: next(free) for letter in letters}
    special = [token for number, token in QWEN_WORDS.items() if number != PAD]
    made.tokenizer = Qwen3_5Tokenizer(
        vocab=vocabulary,
        unk_token=None,
        eos_token=QWEN_WORDS[END],
        pad_token=QWEN_WORDS[PAD],
        additional_special_tokens=special,
        padding_side="left",
    )
    return made


FAMILIES: dict[str, tuple[Any, Any]] = {
    "qwen2_5_vl": (qwen2_5_vl_model, qwen2_5_vl),
    "qwen3_vl": (qwen3_vl_model, qwen3_processor),
    "qwen3_5": (qwen3_5_model, qwen3_5_processor),
    "llava_onevision": (llava_onevision_model, llava_onevision),
    "internvl": (internvl_model, internvl),
}
"""Family -> what makes its model, and its processor."""


def model(family: str) -> Any:
    """The model of a family, with the same random weights at every call.

    Weights are larger than at initialisation, so that attention and answers depend on what is shown.
    """
    torch.manual_seed(0)
    made = FAMILIES[family][0]()
    with torch.no_grad():
        for parameter in made.parameters():
            if parameter.dim() > 1:
                parameter.mul_(3)
    return made.eval()


def write(family: str, folder: Path) -> Path:
    """Write the checkpoint of a family."""
    made = model(family)
    made.save_pretrained(folder)
    if family == "llava_onevision":
        _name_as_released(folder / "model.safetensors")
    FAMILIES[family][1]().save_pretrained(folder)
    return folder


def _name_as_released(weights: Path) -> None:
    """Give the tower's weights the names of the checkpoints on the hub, which vLLM knows."""
    named = {
        name.replace("vision_tower.", "vision_tower.vision_model."): value
        for name, value in load_file(weights).items()
    }
    save_file(named, weights, metadata={"format": "pt"})
