"""Video LLMs of published shapes with random weights, and prompts for them. Nothing is downloaded."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from transformers import (
    LlavaOnevisionConfig,
    LlavaOnevisionForConditionalGeneration,
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    Qwen3VLConfig,
    Qwen3VLForConditionalGeneration,
)

import torch_flash

BEFORE, QUESTION = 14, 20  # text tokens before a video and after it
WORD = 9


class LlavaOnevision:
    """196 tokens a frame and one newline; frames of 384 x 384."""

    model_class = LlavaOnevisionForConditionalGeneration
    image, video = 151646, 151647
    tower: ClassVar = {
        "model_type": "siglip_vision_model",
        "hidden_size": 1152,
        "intermediate_size": 4304,
        "num_attention_heads": 16,
        "num_hidden_layers": 26,
        "image_size": 384,
        "patch_size": 14,
        "vision_use_head": False,
    }
    stand_in: ClassVar = {
        "hidden_size": 64,
        "intermediate_size": 64,
        "num_attention_heads": 2,
        "num_hidden_layers": 1,
    }

    def config(self, text: dict[str, Any], tower: dict[str, Any]) -> Any:
        return LlavaOnevisionConfig(
            text_config={"model_type": "qwen2", **text},
            vision_config=tower,
            image_token_id=self.image,
            video_token_id=self.video,
            vision_feature_layer=-1,
            vision_feature_select_strategy="full",
            tie_word_embeddings=text["tie_word_embeddings"],
        )

    def placeholders(self, frames: int) -> list[int]:
        return [self.video] * (frames * 196 + 1)

    def pixels(self, frames: int, batch: int, like: dict[str, Any]) -> dict[str, Any]:
        return {"pixel_values_videos": torch.randn(batch, frames, 3, 384, 384, **like)}


class Qwen25VL:
    """Frames of 784 x 392 pixels, so that two of them make 392 tokens: as many a frame as LLaVA-OneVision."""

    model_class = Qwen2_5_VLForConditionalGeneration
    image, video, begin, end = 151655, 151656, 151652, 151653
    patch = 14
    tower: dict[str, Any] = {  # noqa: RUF012
        "depth": 32,
        "hidden_size": 1280,
        "intermediate_size": 3420,
        "num_heads": 16,
        "patch_size": 14,
        "window_size": 112,
        "fullatt_block_indexes": [7, 15, 23, 31],
    }
    stand_in: ClassVar = {
        "depth": 1,
        "hidden_size": 64,
        "intermediate_size": 64,
        "num_heads": 2,
        "fullatt_block_indexes": [0],
    }

    def config(self, text: dict[str, Any], tower: dict[str, Any]) -> Any:
        rope = {"rope_type": "default", "mrope_section": [16, 24, 24], "rope_theta": 1e6}
        return Qwen2_5_VLConfig(
            text_config={**text, "rope_parameters": rope},
            vision_config={**tower, "out_hidden_size": text["hidden_size"]},
            image_token_id=self.image,
            video_token_id=self.video,
            vision_start_token_id=self.begin,
            vision_end_token_id=self.end,
            tie_word_embeddings=text["tie_word_embeddings"],
        )

    def placeholders(self, frames: int) -> list[int]:
        return [self.begin, *[self.video] * (frames // 2 * 392), self.end]

    def pixels(self, frames: int, batch: int, like: dict[str, Any]) -> dict[str, Any]:
        grid = torch.tensor([[frames // 2, 28, 56]] * batch)
        pixels = {
            "pixel_values_videos": torch.randn(int(grid.prod(1).sum()), 3 * 2 * self.patch**2, **like),
            "video_grid_thw": grid.to(like["device"]),
        }
        return {**pixels, **self.more(batch, like["device"])}

    def more(self, batch: int, device: str) -> dict[str, Any]:
        return {"second_per_grid_ts": torch.ones(batch, device=device)}


class Qwen3VL(Qwen25VL):
    """Frames of 896 x 448 pixels, two of them 392 tokens; a time before each such pair."""

    model_class = Qwen3VLForConditionalGeneration
    patch = 16
    stand_in: ClassVar = {
        "depth": 1,
        "hidden_size": 64,
        "intermediate_size": 64,
        "num_heads": 2,
        "deepstack_visual_indexes": [0, 0, 0],
    }

    def __init__(self, depth: int, hidden: int, mlp: int, deepstack: list[int]) -> None:
        self.tower = {
            "depth": depth,
            "hidden_size": hidden,
            "intermediate_size": mlp,
            "num_heads": 16,
            "patch_size": 16,
            "num_position_embeddings": 2304,
            "deepstack_visual_indexes": deepstack,
        }

    def config(self, text: dict[str, Any], tower: dict[str, Any]) -> Any:
        rope = {"rope_type": "default", "mrope_section": [24, 20, 20], "rope_theta": 5e6}
        return Qwen3VLConfig(
            text_config={**text, "head_dim": 128, "rope_parameters": rope},
            vision_config={**tower, "out_hidden_size": text["hidden_size"]},
            image_token_id=self.image,
            video_token_id=self.video,
            vision_start_token_id=self.begin,
            vision_end_token_id=self.end,
            tie_word_embeddings=text["tie_word_embeddings"],
        )

    def more(self, batch: int, device: str) -> dict[str, Any]:
        return {}

    def placeholders(self, frames: int) -> list[int]:
        return [WORD, self.begin, *[self.video] * 392, self.end] * (frames // 2)


def decoder(
    hidden: int, mlp: int, layers: int, heads: int, kv: int, vocab: int, tied: bool
) -> dict[str, Any]:
    return {
        "hidden_size": hidden,
        "intermediate_size": mlp,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": kv,
        "vocab_size": vocab,
        "tie_word_embeddings": tied,
        "max_position_embeddings": 1 << 20,
        "eos_token_id": None,
    }


SHAPES: dict[str, tuple[Any, dict[str, Any]]] = {
    "llava-onevision-0.5b": (LlavaOnevision(), decoder(896, 4864, 24, 14, 2, 152000, True)),
    "llava-onevision-7b": (LlavaOnevision(), decoder(3584, 18944, 28, 28, 4, 152128, False)),
    "qwen2.5-vl-3b": (Qwen25VL(), decoder(2048, 11008, 36, 16, 2, 151936, True)),
    "qwen2.5-vl-7b": (Qwen25VL(), decoder(3584, 18944, 28, 28, 4, 152064, False)),
    "qwen3-vl-4b": (Qwen3VL(24, 1024, 4096, [5, 11, 17]), decoder(2560, 9728, 36, 32, 8, 151936, True)),
    "qwen3-vl-8b": (Qwen3VL(27, 1152, 4304, [8, 16, 24]), decoder(4096, 12288, 36, 32, 8, 151936, False)),
}
"""Name -> family and decoder."""


@dataclass(frozen=True)
class Case:
    """What is run.

    Attributes:
        shape: of `SHAPES`.
        layers: decoder layers; None: as many as the model has.
        frames: of each video.
        batch: prompts at once, each with a video of its own.
        dtype: name of a torch dtype.
        device: torch's name of it.
        attention: as transformers calls it; "flash": the package flash_attn's, or if it is not installed the
            kernels that PyTorch ships, in the decoder.
        vision: whether the vision tower has its real shape; otherwise a small one stands in.
        threads: of torch on a CPU; None: as it decides.
    """

    shape: str
    layers: int | None
    frames: int
    batch: int
    dtype: str
    device: str
    attention: str
    vision: bool
    threads: int | None

    def build(self) -> tuple[Any, dict[str, Any]]:
        """The model and the arguments of ``generate``."""
        if self.threads:
            torch.set_num_threads(self.threads)
        family, text = SHAPES[self.shape]
        text = {**text, "num_hidden_layers": self.layers or text["num_hidden_layers"]}
        config = family.config(text, family.tower if self.vision else {**family.tower, **family.stand_in})
        attention = torch_flash.choose() if self.attention == "flash" else self.attention
        config._attn_implementation = "sdpa" if attention == torch_flash.NAME else attention
        like = {"dtype": getattr(torch, self.dtype), "device": self.device}
        torch.manual_seed(0)
        before = torch.get_default_dtype()
        torch.set_default_dtype(like["dtype"])
        try:
            with torch.device(self.device):
                model = family.model_class(config).eval().requires_grad_(False)
        finally:
            torch.set_default_dtype(before)
        if attention == torch_flash.NAME:
            torch_flash.set_attention(model, attention)
        prompt = [WORD] * BEFORE + family.placeholders(self.frames) + [WORD + 1] * QUESTION
        ids = torch.tensor([prompt] * self.batch, device=self.device)
        inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
        if hasattr(family, "begin"):
            inputs["mm_token_type_ids"] = (ids == family.video).long() * 2
        return model, {**inputs, **family.pixels(self.frames, self.batch, like)}
