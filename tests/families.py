"""Small random models of every family, with inputs as their processors make them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from transformers import (
    LlavaOnevisionConfig,
    LlavaOnevisionForConditionalGeneration,
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    Qwen2Config,
    SiglipVisionConfig,
)

import fake_flash

IMAGE, VIDEO, START, END, PAD = 90, 91, 92, 93, 0
LAYERS = 6


class LlavaOnevision:
    """4 x 4 patches a frame, pooled to 2 x 2 tokens, one newline behind each video."""

    name = "llava_onevision"

    @staticmethod
    def config() -> LlavaOnevisionConfig:
        text = Qwen2Config(
            hidden_size=32,
            intermediate_size=48,
            num_hidden_layers=LAYERS,
            num_attention_heads=4,
            num_key_value_heads=2,
            vocab_size=100,
            max_position_embeddings=4096,
            pad_token_id=PAD,
            bos_token_id=START,
            eos_token_id=None,
            tie_word_embeddings=False,
        )
        vision = SiglipVisionConfig(
            hidden_size=24,
            intermediate_size=32,
            num_hidden_layers=2,
            num_attention_heads=2,
            image_size=16,
            patch_size=4,
            vision_use_head=False,
        )
        return LlavaOnevisionConfig(
            text_config=text,
            vision_config=vision,
            image_token_id=IMAGE,
            video_token_id=VIDEO,
            image_grid_pinpoints=[[16, 16]],
            vision_feature_layer=-1,
            vision_feature_select_strategy="full",
        )

    model_class = LlavaOnevisionForConditionalGeneration
    tokens_a_frame = 4
    trailing = 1

    @staticmethod
    def pixels(frames: int, seed: int) -> dict[str, torch.Tensor]:
        generator = torch.Generator().manual_seed(seed)
        return {"pixel_values_videos": torch.randn(1, frames, 3, 16, 16, generator=generator)}

    @staticmethod
    def image() -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """Placeholders and inputs of one image: the whole, its only crop, and a newline a row."""
        pixels = torch.randn(1, 2, 3, 16, 16, generator=torch.Generator().manual_seed(9))
        ids = torch.full((16 + 16 + 4,), IMAGE)
        return ids, {"pixel_values": pixels, "image_sizes": torch.tensor([[16, 16]])}


class Qwen25VL:
    """4 x 4 patches a frame, merged to 2 x 2 tokens, two frames a temporal step."""

    name = "qwen2_5_vl"

    @staticmethod
    def config() -> Qwen2_5_VLConfig:
        return Qwen2_5_VLConfig(
            text_config={
                "hidden_size": 32,
                "intermediate_size": 48,
                "num_hidden_layers": LAYERS,
                "num_attention_heads": 4,
                "num_key_value_heads": 2,
                "vocab_size": 100,
                "max_position_embeddings": 4096,
                "pad_token_id": PAD,
                "bos_token_id": START,
                "eos_token_id": None,
                "rope_parameters": {"rope_type": "default", "mrope_section": [1, 1, 2], "rope_theta": 1e4},
            },
            vision_config={
                "depth": 2,
                "hidden_size": 32,
                "intermediate_size": 32,
                "num_heads": 2,
                "out_hidden_size": 32,
                "patch_size": 4,
                "window_size": 16,
                "fullatt_block_indexes": [1],
            },
            image_token_id=IMAGE,
            video_token_id=VIDEO,
            vision_start_token_id=94,
            vision_end_token_id=95,
        )

    model_class = Qwen2_5_VLForConditionalGeneration
    tokens_a_frame = 4
    trailing = 0

    @staticmethod
    def pixels(frames: int, seed: int) -> dict[str, torch.Tensor]:
        generator = torch.Generator().manual_seed(seed)
        return {
            "pixel_values_videos": torch.randn(frames * 16, 3 * 2 * 4 * 4, generator=generator),
            "video_grid_thw": torch.tensor([[frames, 4, 4]]),
            "second_per_grid_ts": torch.tensor([1.0]),
        }

    @staticmethod
    def image() -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """Placeholders and inputs of one image of 4 x 4 patches."""
        pixels = torch.randn(16, 3 * 2 * 4 * 4, generator=torch.Generator().manual_seed(9))
        return torch.tensor([94, *[IMAGE] * 4, 95]), {
            "pixel_values": pixels,
            "image_grid_thw": torch.tensor([[1, 4, 4]]),
        }


FAMILIES = [LlavaOnevision, Qwen25VL]


def build(family: Any, attention: str = "sdpa", dtype: torch.dtype = torch.float32) -> Any:
    """A random model whose attention is not flat, so that scores order tokens clearly."""
    torch.manual_seed(0)
    config = family.config()
    if attention != fake_flash.NAME:
        config._attn_implementation = attention
    model = family.model_class(config).eval().to(dtype)
    if attention == fake_flash.NAME:  # from_config would look for a kernel of that name
        model.get_decoder().config._attn_implementation = attention
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "language_model" in name and ("q_proj" in name or "k_proj" in name):
                parameter.mul_(20 if parameter.ndim == 2 else 1)
            elif "layers" in name and parameter.ndim == 2:
                parameter.mul_(5)
    return model


@dataclass
class Prompt:
    """One sample: some text, a video of ``frames`` frames, a question."""

    frames: int = 8
    before: int = 3
    question: int = 6
    seed: int = 0

    def ids(self, family: Any) -> list[int]:
        generator = torch.Generator().manual_seed(self.seed + 100)
        words = torch.randint(1, 80, (self.before + self.question,), generator=generator).tolist()
        visual = [VIDEO] * (self.frames * family.tokens_a_frame + family.trailing)
        if family is Qwen25VL:
            visual = [94, *visual, 95]
        return [START, *words[: self.before], *visual, *words[self.before :], END]


def batch(family: Any, prompts: list[Prompt], dtype: torch.dtype = torch.float32) -> dict[str, torch.Tensor]:
    """Left-padded inputs of several samples."""
    rows = [prompt.ids(family) for prompt in prompts]
    length = max(map(len, rows))
    ids = torch.tensor([[PAD] * (length - len(row)) + row for row in rows])
    real = torch.tensor([[0] * (length - len(row)) + [1] * len(row) for row in rows])
    pixels = [family.pixels(prompt.frames, prompt.seed) for prompt in prompts]
    inputs = {name: torch.cat([p[name] for p in pixels]) for name in pixels[0]}
    inputs["pixel_values_videos"] = inputs["pixel_values_videos"].to(dtype)
    if family is Qwen25VL:
        inputs["mm_token_type_ids"] = (ids == VIDEO).long() * 2
    return {"input_ids": ids, "attention_mask": real, **inputs}
