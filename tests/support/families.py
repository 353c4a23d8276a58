"""Small random models of every family, with inputs as their processors make them."""

from __future__ import annotations

import copy
import functools
import inspect
import math
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from transformers import (
    CLIPVisionConfig,
    Gemma3Config,
    Gemma3ForConditionalGeneration,
    Gemma3TextConfig,
    Glm4vConfig,
    Glm4vForConditionalGeneration,
    Glm46VConfig,
    Glm46VForConditionalGeneration,
    InternVLConfig,
    InternVLForConditionalGeneration,
    LlamaConfig,
    LlavaNextVideoConfig,
    LlavaNextVideoForConditionalGeneration,
    LlavaOnevisionConfig,
    LlavaOnevisionForConditionalGeneration,
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    Qwen2Config,
    Qwen2VLConfig,
    Qwen2VLForConditionalGeneration,
    Qwen3_5Config,
    Qwen3_5ForConditionalGeneration,
    Qwen3_5MoeConfig,
    Qwen3_5MoeForConditionalGeneration,
    Qwen3VLConfig,
    Qwen3VLForConditionalGeneration,
    Qwen3VLMoeConfig,
    Qwen3VLMoeForConditionalGeneration,
    SiglipVisionConfig,
    SmolVLMConfig,
    SmolVLMForConditionalGeneration,
    VideoLlama3Config,
    VideoLlama3ForConditionalGeneration,
    VideoLlavaConfig,
    VideoLlavaForConditionalGeneration,
)

import fake_flash
import torch_flash
from adatp.models import decoder_of
from device import DEVICE

IMAGE, VIDEO, START, END, PAD = 90, 91, 92, 93, 0
LAYERS = 6


class Family:
    """What the suite asks of a family, and how most answer."""

    name: str
    model_class: Any
    token = VIDEO  # stands for a visual token
    tokens_a_frame = 4
    trailing = 0  # placeholders after a video that stand for no visual token
    features_a_frame = 16  # what the tower makes of a frame
    step = 1  # frames of pixels in one frame of tokens
    any_size = False  # whether a frame's tokens follow its size
    side = 16  # of the smallest frame that shows a grid of tokens, in pixels
    several_videos = images_beside = True  # in one prompt
    louder_projector = False  # where its tokens would be lost beside what they are added to
    tower_known = True  # whether methods can read what the vision tower's tokens receive
    static_cache = True  # whether transformers gives it the masks of a dynamic one
    in_chunks = True  # whether transformers can read its prompts in chunks
    may_end_with_video = True  # whether transformers can read a prompt that ends with a video's last token
    found = True  # by transformers' generate, which counts and cuts videos by video_token_id
    unfound = "transformers' `generate` counts a video's tokens by `video_token_id`, these are others"
    compresses = False  # whether the processor leaves out tokens of what stands still
    multimodal_rope = False
    attentions: ClassVar[tuple[str, ...]] = ("eager", "sdpa", fake_flash.NAME)
    layers = tuple(range(LAYERS))  # of the decoder
    full = layers  # those of them with full attention; the others have a window or linear attention

    @classmethod
    def lacks(cls) -> dict[str, str]:
        """Features (see ``conformance.FEATURES``) that can't be asked of it, and why."""
        why: dict[str, str] = {}
        if not cls.found:
            why |= dict.fromkeys(["beams", "sampling"], cls.unfound)
        if not cls.tower_known:
            why["tower"] = "its vision tower's attention is not known to us"
        if not cls.several_videos:
            why["videos"] = "frames are images: all images of a prompt are its one video"
        if not cls.images_beside:
            why["images"] = "an image has the same placeholders as a video's frames"
        return why

    @classmethod
    def visual(cls, frames: int) -> list[int]:
        """A video in a prompt."""
        return [cls.token] * (frames * cls.tokens_a_frame + cls.trailing)

    @classmethod
    def grid(cls, frames: int, height: int, width: int) -> tuple[int, int, int]:
        """Frames, rows and columns of tokens of a video in pixels; patches of 4 x 4, merged two by two."""
        rows, columns = (height // 8, width // 8) if cls.any_size else (2, 2)
        return -(-frames // cls.step), rows, columns

    @classmethod
    def more(cls, ids: torch.Tensor) -> dict[str, torch.Tensor]:
        """What else the processor makes of the ids."""
        if not cls.multimodal_rope:
            return {}
        return {"mm_token_type_ids": (ids == IMAGE).long() + 2 * (ids == VIDEO).long()}

    @staticmethod
    def next_turn(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """Inputs of a turn after another one."""
        return {name: part for name, part in second.items() if name != "attention_mask"}

    @staticmethod
    def joined(name: str, parts: list[torch.Tensor]) -> torch.Tensor:
        """Pixels, or what else goes with them, of a batch's videos."""
        return torch.cat(parts)

    @classmethod
    def position(cls, ids: torch.Tensor) -> torch.Tensor:
        """Position ids (B, n), as the model takes them."""
        return ids.expand(3, -1, -1) if cls.multimodal_rope else ids

    @classmethod
    def shown(cls, placeholders: torch.Tensor) -> torch.Tensor:
        """Of what stands for a video's placeholders, one row each: the rows of visual tokens."""
        return placeholders[: len(placeholders) - cls.trailing]

    @staticmethod
    def encode(model: Any, inputs: dict[str, torch.Tensor]) -> list[torch.Tensor]:
        """What stands in for each video's placeholders, (tokens, d)."""
        names = inspect.signature(model.base_model.get_video_features).parameters
        encoded = model.base_model.get_video_features(**{k: v for k, v in inputs.items() if k in names})
        return list(encoded.pooler_output)

    @staticmethod
    def last_attention(model: Any) -> Any:
        """The attention of the tower's layer whose output is projected."""
        return model.base_model.visual.blocks[-1].attn

    @staticmethod
    def pooled(received: torch.Tensor) -> torch.Tensor:
        """What patches receive, by token: four patches side by side make one."""
        return received.view(-1, 4).mean(1)


class LlavaOnevision(Family):
    """4 x 4 patches a frame, pooled to 2 x 2 tokens, one newline after each video."""

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
    trailing = 1

    @classmethod
    def encode(cls, model: Any, inputs: dict[str, torch.Tensor]) -> list[torch.Tensor]:
        """Up to transformers 5.16 the argument has another name, and the newline is added later."""
        videos = model.base_model.get_video_features(inputs["pixel_values_videos"]).pooler_output
        return [
            torch.nn.functional.pad(tokens, (0, 0, 0, cls.trailing - len(tokens) % cls.tokens_a_frame))
            for tokens in (video.flatten(0, -2) for video in videos)
        ]

    @staticmethod
    def last_attention(model: Any) -> Any:
        """SigLIP's last layer."""
        return encoder_of(model.base_model.vision_tower).layers[-1].self_attn

    @staticmethod
    def pooled(received: torch.Tensor) -> torch.Tensor:
        """Patches in raster order, 4 x 4 a frame."""
        return received.view(-1, 2, 2, 2, 2).mean((2, 4)).flatten()

    @staticmethod
    def pixels(frames: int, seed: int) -> dict[str, torch.Tensor]:
        generator = torch.Generator().manual_seed(seed)
        return {"pixel_values_videos": torch.randn(1, frames, 3, 16, 16, generator=generator)}

    @staticmethod
    def image() -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """Placeholders and inputs of one image: the complete image, its only crop, and a newline per row."""
        pixels = torch.randn(1, 2, 3, 16, 16, generator=torch.Generator().manual_seed(9))
        ids = torch.full((16 + 16 + 4,), IMAGE)
        return ids, {"pixel_values": pixels, "image_sizes": torch.tensor([[16, 16]])}


def encoder_of(tower: Any) -> Any:
    """The layers of a tower; transformers 5.5 has a model more around them."""
    return getattr(tower, "vision_model", tower).encoder


TEXT: dict[str, Any] = {
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
    "tie_word_embeddings": False,
}
CLIP = {
    "hidden_size": 24,
    "intermediate_size": 32,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "image_size": 16,
    "patch_size": 4,
}


class LlavaNextVideo(LlavaOnevision):
    """CLIP; 4 x 4 patches a frame, pooled to 2 x 2 tokens."""

    name = "llava_next_video"
    model_class = LlavaNextVideoForConditionalGeneration
    trailing = 0

    @staticmethod
    def config() -> Any:
        return LlavaNextVideoConfig(
            text_config=LlamaConfig(**TEXT),
            vision_config=CLIPVisionConfig(**CLIP),
            image_token_index=IMAGE,
            video_token_index=VIDEO,
            image_grid_pinpoints=[[16, 16]],
        )

    @staticmethod
    def last_attention(model: Any) -> Any:
        """The last layer but one."""
        return encoder_of(model.base_model.vision_tower).layers[-2].self_attn

    @classmethod
    def pooled(cls, received: torch.Tensor) -> torch.Tensor:
        """Without the class tokens."""
        return super().pooled(received.view(-1, 17)[:, 1:].flatten())


class VideoLlava(LlavaOnevision):
    """CLIP; 4 x 4 patches a frame and a class token."""

    name = "video_llava"
    model_class = VideoLlavaForConditionalGeneration
    tokens_a_frame = 16

    @staticmethod
    def config() -> Any:
        return VideoLlavaConfig(
            text_config=LlamaConfig(**TEXT),
            vision_config=CLIPVisionConfig(**CLIP),
            image_token_index=IMAGE,
            video_token_index=VIDEO,
        )

    @classmethod
    def visual(cls, frames: int) -> list[int]:
        return [VIDEO] * (17 * frames)

    @classmethod
    def grid(cls, frames: int, height: int, width: int) -> tuple[int, int, int]:
        return frames, 4, 4

    @classmethod
    def shown(cls, placeholders: torch.Tensor) -> torch.Tensor:
        """No class tokens."""
        return placeholders.unflatten(0, (-1, 17))[:, 1:].flatten(0, 1)

    @staticmethod
    def image() -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """An image has none of its own."""
        pixels = torch.randn(1, 3, 16, 16, generator=torch.Generator().manual_seed(9))
        older = (
            "pixel_values_images" in inspect.signature(VideoLlavaForConditionalGeneration.forward).parameters
        )
        return torch.full((16,), IMAGE), {"pixel_values_images" if older else "pixel_values": pixels}

    @staticmethod
    def encode(model: Any, inputs: dict[str, torch.Tensor]) -> list[torch.Tensor]:
        pixels = inputs["pixel_values_videos"]
        frames = model.base_model.get_video_features(pixels, vision_feature_layer=-2).pooler_output
        return [video.flatten(0, 1) for video in frames.split(pixels.shape[1])]

    @staticmethod
    def last_attention(model: Any) -> Any:
        return encoder_of(model.base_model.video_tower).layers[-2].self_attn

    @staticmethod
    def pooled(received: torch.Tensor) -> torch.Tensor:
        return received.view(-1, 17)[:, 1:].flatten()


def qwen_text(**more: Any) -> dict[str, Any]:
    """A text config of its own, for tests change it."""
    rope = {"rope_type": "default", "mrope_section": [1, 1, 2], "rope_theta": 1e4}
    return {**TEXT, "rope_parameters": rope, **more}


QWEN_TOKENS = {
    "image_token_id": IMAGE,
    "video_token_id": VIDEO,
    "vision_start_token_id": 94,
    "vision_end_token_id": 95,
}


class Qwen2VL(Family):
    """4 x 4 patches a frame, merged to 2 x 2 tokens, two frames a temporal step."""

    name = "qwen2_vl"
    model_class = Qwen2VLForConditionalGeneration
    step = 2
    any_size = multimodal_rope = True

    @staticmethod
    def config() -> Any:
        vision = {"depth": 2, "embed_dim": 32, "mlp_ratio": 1, "num_heads": 2, "hidden_size": 32}
        return Qwen2VLConfig(
            text_config=qwen_text(), vision_config={**vision, "patch_size": 4}, **QWEN_TOKENS
        )

    @classmethod
    def visual(cls, frames: int) -> list[int]:
        """One run."""
        return [94, *[VIDEO] * (4 * frames), 95]

    @classmethod
    def pixels(cls, frames: int, seed: int) -> dict[str, torch.Tensor]:
        generator = torch.Generator().manual_seed(seed)
        side = 2 * math.isqrt(cls.tokens_a_frame)
        return {
            "pixel_values_videos": torch.randn(frames * side**2, 3 * 2 * 4 * 4, generator=generator),
            "video_grid_thw": torch.tensor([[frames, side, side]]),
        }

    @staticmethod
    def image() -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """Placeholders and inputs of one image of 4 x 4 patches."""
        pixels = torch.randn(16, 3 * 2 * 4 * 4, generator=torch.Generator().manual_seed(9))
        return torch.tensor([94, *[IMAGE] * 4, 95]), {
            "pixel_values": pixels,
            "image_grid_thw": torch.tensor([[1, 4, 4]]),
        }


class Qwen25VL(Qwen2VL):
    """Windows of 2 x 2 tokens."""

    name = "qwen2_5_vl"
    model_class = Qwen2_5_VLForConditionalGeneration

    @staticmethod
    def config() -> Any:
        vision = {
            "depth": 2,
            "hidden_size": 32,
            "intermediate_size": 32,
            "num_heads": 2,
            "out_hidden_size": 32,
            "patch_size": 4,
            "window_size": 16,
            "fullatt_block_indexes": [1],
        }
        return Qwen2_5_VLConfig(text_config=qwen_text(), vision_config=vision, **QWEN_TOKENS)

    @classmethod
    def pixels(cls, frames: int, seed: int) -> dict[str, torch.Tensor]:
        return {**super().pixels(frames, seed), "second_per_grid_ts": torch.tensor([1.0])}

    @staticmethod
    def pooled(received: torch.Tensor) -> torch.Tensor:
        """Of videos with 4 x 6 tokens a frame: 2 x 2 tokens a window, window by window."""
        merged = received.view(-1, 4).mean(1)
        frames = merged.view(-1, 2, 3, 2, 2)  # frame, window row, window column, row, column
        return frames.transpose(2, 3).flatten()


class Qwen3VL(Qwen2VL):
    """8 x 8 patches a frame, a timestamp before each; DeepStack after three layers, among the cuts."""

    name = "qwen3_vl"
    tokens_a_frame = 16
    model_class = Qwen3VLForConditionalGeneration

    vision: ClassVar[dict[str, Any]] = {
        "depth": 4,
        "hidden_size": 32,
        "intermediate_size": 32,
        "num_heads": 2,
        "out_hidden_size": 32,
        "patch_size": 4,
        "num_position_embeddings": 64,
        "deepstack_visual_indexes": [0, 1, 2],
    }

    @classmethod
    def config(cls) -> Any:
        return Qwen3VLConfig(text_config=qwen_text(head_dim=8), vision_config=cls.vision, **QWEN_TOKENS)

    @classmethod
    def visual(cls, frames: int) -> list[int]:
        """A run per step, after its time."""
        return [token for frame in range(frames) for token in (80 + frame % 8, 94, *[VIDEO] * 16, 95)]


class Qwen3VLMoe(Qwen3VL):
    """Two of four experts a token."""

    name = "qwen3_vl_moe"
    model_class = Qwen3VLMoeForConditionalGeneration

    @classmethod
    def config(cls) -> Any:
        experts = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 24, "head_dim": 8}
        return Qwen3VLMoeConfig(text_config=qwen_text(**experts), vision_config=cls.vision, **QWEN_TOKENS)


class Qwen35(Qwen3VL):
    """Linear attention in half of the layers: cuts after full attention, before either kind."""

    name = "qwen3_5"
    model_class = Qwen3_5ForConditionalGeneration
    layers = tuple(range(8))
    full = (1, 2, 4, 7)
    configuration: ClassVar[Any] = Qwen3_5Config
    experts: ClassVar[dict[str, int]] = {}

    @classmethod
    def lacks(cls) -> dict[str, str]:
        return {"assisted": "transformers assists no model with a state", **super().lacks()}

    @classmethod
    def config(cls) -> Any:
        kinds = ["full_attention" if layer in cls.full else "linear_attention" for layer in cls.layers]
        rope = {"rope_type": "default", "mrope_section": [1, 1, 2], "rope_theta": 1e4}
        return cls.configuration(
            text_config={
                **qwen_text(**cls.experts),
                "rope_parameters": {**rope, "partial_rotary_factor": 0.5},
                "num_hidden_layers": len(kinds),
                "layer_types": kinds,
                "head_dim": 16,
                "linear_num_key_heads": 2,
                "linear_num_value_heads": 4,
                "linear_key_head_dim": 8,
                "linear_value_head_dim": 8,
            },
            vision_config={key: value for key, value in cls.vision.items() if "deepstack" not in key},
            **QWEN_TOKENS,
        )


class Qwen35Moe(Qwen35):
    """Two of four experts a token, and one for all."""

    name = "qwen3_5_moe"
    model_class = Qwen3_5MoeForConditionalGeneration
    configuration = Qwen3_5MoeConfig
    experts: ClassVar[dict[str, int]] = {
        "num_experts": 4,
        "num_experts_per_tok": 2,
        "moe_intermediate_size": 24,
        "shared_expert_intermediate_size": 16,
    }


class InternVL(LlavaOnevision):
    """Frames are images: 8 x 8 patches and a class token make 4 x 4 tokens, with words between them."""

    name = "internvl"
    model_class = InternVLForConditionalGeneration
    token = IMAGE
    trailing = 0
    tokens_a_frame = 16
    features_a_frame = 64
    side = 32
    several_videos = images_beside = False

    @staticmethod
    def config() -> Any:
        return InternVLConfig(
            text_config=Qwen2Config(**TEXT),
            vision_config={**CLIP, "image_size": 32},
            image_token_id=IMAGE,
            image_seq_length=16,
            tie_word_embeddings=False,
        )

    @classmethod
    def visual(cls, frames: int) -> list[int]:
        return [token for frame in range(frames) for token in (80 + frame % 8, 94, *[IMAGE] * 16, 95)]

    @classmethod
    def grid(cls, frames: int, height: int, width: int) -> tuple[int, int, int]:
        return frames, 4, 4

    @staticmethod
    def pixels(frames: int, seed: int) -> dict[str, torch.Tensor]:
        generator = torch.Generator().manual_seed(seed)
        return {"pixel_values": torch.randn(frames, 3, 32, 32, generator=generator)}

    @staticmethod
    def encode(model: Any, inputs: dict[str, torch.Tensor]) -> list[torch.Tensor]:
        pixels = inputs["pixel_values"]
        layer = {"vision_feature_layer": -1, "vision_feature_select_strategy": "default"}
        frames = model.base_model.get_image_features(pixels, **layer).pooler_output
        return [video.flatten(0, 1) for video in frames.chunk(len(inputs["input_ids"]))]

    @staticmethod
    def last_attention(model: Any) -> Any:
        return model.base_model.vision_tower.encoder.layer[-1].attention

    @staticmethod
    def pooled(received: torch.Tensor) -> torch.Tensor:
        """Patches in raster order, 8 x 8 a frame, without the class tokens."""
        return received.view(-1, 65)[:, 1:].reshape(-1, 4, 2, 4, 2).mean((2, 4)).flatten()


class SmolVLM(InternVL):
    """The same with no class token; images come by sample."""

    name = "smolvlm"
    model_class = SmolVLMForConditionalGeneration

    @staticmethod
    def config() -> Any:
        return SmolVLMConfig(
            text_config=LlamaConfig(**TEXT),
            vision_config={**CLIP, "image_size": 32},
            image_token_id=IMAGE,
            scale_factor=2,
        )

    @staticmethod
    def pixels(frames: int, seed: int) -> dict[str, torch.Tensor]:
        return {"pixel_values": InternVL.pixels(frames, seed)["pixel_values"][None]}

    @staticmethod
    def encode(model: Any, inputs: dict[str, torch.Tensor]) -> list[torch.Tensor]:
        """By frame up to transformers 5.16, then by sample."""
        parts = model.base_model.get_image_features(inputs["pixel_values"]).pooler_output
        return list(torch.cat([part.flatten(0, -2) for part in parts]).chunk(len(inputs["input_ids"])))

    @staticmethod
    def last_attention(model: Any) -> Any:
        return model.base_model.vision_model.encoder.layers[-1].self_attn

    @staticmethod
    def pooled(received: torch.Tensor) -> torch.Tensor:
        return received.view(-1, 4, 2, 4, 2).mean((2, 4)).flatten()


class Glm4v(Qwen3VL):
    """Placeholders of images, between the brackets of a video; the tower merges patches itself."""

    name = "glm4v"
    model_class = Glm4vForConditionalGeneration
    token = IMAGE
    features_a_frame = 4
    images_beside = False  # transformers takes a video's placeholders for the image's
    found = False
    configuration: ClassVar[Any] = Glm4vConfig

    @classmethod
    def config(cls) -> Any:
        vision = {
            key: cls.vision[key] for key in ("hidden_size", "num_heads", "patch_size", "out_hidden_size")
        }
        return cls.configuration(
            text_config=qwen_text(),
            vision_config={**vision, "depth": 2, "intermediate_size": 32, "image_size": 32},
            image_token_id=IMAGE,
            video_token_id=VIDEO,
            image_start_token_id=94,
            image_end_token_id=95,
            video_start_token_id=96,
            video_end_token_id=97,
        )

    @classmethod
    def visual(cls, frames: int) -> list[int]:
        """Each step's time comes after it."""
        steps = [token for frame in range(frames) for token in (94, *[IMAGE] * 16, 95, 80 + frame % 8)]
        return [96, *steps, 97]

    @classmethod
    def more(cls, ids: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"mm_token_type_ids": 2 * (ids == IMAGE).long()}


class Glm46V(Glm4v):
    """The same under another name."""

    name = "glm46v"
    model_class = Glm46VForConditionalGeneration
    configuration = Glm46VConfig


class VideoLlama3(Qwen2VL):
    """8 x 8 patches a frame, merged to 4 x 4 tokens; after the first frame about half are left out."""

    name = "video_llama_3"
    model_class = VideoLlama3ForConditionalGeneration
    tokens_a_frame = 16
    features_a_frame = 4
    step = 1
    multimodal_rope = False
    found = False
    unfound = "transformers repeats and cuts a video by the number of its tokens before any are left out"
    compresses = True

    @staticmethod
    def config() -> Any:
        return VideoLlama3Config(
            text_config=Qwen2Config(**TEXT),
            vision_config={
                "hidden_size": 24,
                "intermediate_size": 32,
                "num_hidden_layers": 2,
                "num_attention_heads": 2,
                "patch_size": 4,
            },
            image_token_id=IMAGE,
            video_token_id=VIDEO,
        )

    @classmethod
    def mask(cls, frames: int) -> torch.Tensor:
        """(frames, 16) bool: the tokens that there are, at least one of each frame."""
        mask = torch.rand(frames, 16, generator=torch.Generator().manual_seed(frames)) < 0.5
        mask[0] = mask[:, 3] = True
        return mask

    @classmethod
    def visual(cls, frames: int) -> list[int]:
        """A run per frame, after its time."""
        runs = cls.mask(frames).sum(1).tolist()
        return [token for frame, n in enumerate(runs) for token in (80 + frame % 8, *[VIDEO] * n)]

    @classmethod
    def pixels(cls, frames: int, seed: int) -> dict[str, torch.Tensor]:
        generator = torch.Generator().manual_seed(seed)
        return {
            "pixel_values_videos": torch.randn(frames * 64, 3 * 4 * 4, generator=generator),
            "video_grid_thw": torch.tensor([[frames, 8, 8]]),
            "video_merge_sizes": torch.tensor([2]),
            "video_compression_mask": cls.mask(frames).flatten(),
        }

    @staticmethod
    def image() -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """One image of 4 x 4 patches, each a token."""
        pixels = torch.randn(16, 3 * 4 * 4, generator=torch.Generator().manual_seed(9))
        return torch.full((16,), IMAGE), {
            "pixel_values": pixels,
            "image_grid_thw": torch.tensor([[1, 4, 4]]),
            "image_merge_sizes": torch.tensor([1]),
        }

    @staticmethod
    def encode(model: Any, inputs: dict[str, torch.Tensor]) -> list[torch.Tensor]:
        videos = Family.encode(model, inputs)
        masks = inputs["video_compression_mask"].split(list(map(len, videos)))
        return [video[mask] for video, mask in zip(videos, masks, strict=True)]

    @staticmethod
    def last_attention(model: Any) -> Any:
        return model.base_model.vision_model.encoder.layers[-1].self_attn


class VideoLlama3Whole(VideoLlama3):
    """The same with nothing left out."""

    found = True
    compresses = False

    @classmethod
    def mask(cls, frames: int) -> torch.Tensor:
        return torch.ones(frames, 16, dtype=torch.bool)


class Gemma3(InternVL):
    """Every other layer looks back 24 tokens, an image and a half; an image's tokens attend to each other."""

    name = "gemma3"
    model_class = Gemma3ForConditionalGeneration
    full = (1, 3, 5)
    attentions = ("eager", "sdpa")  # flash attention has no masks to tell what lies in a window by

    @staticmethod
    def config() -> Any:
        text = {"head_dim": 8, "query_pre_attn_scalar": 1, "sliding_window": 24}
        kinds = ["sliding_attention", "full_attention"] * (LAYERS // 2)
        return Gemma3Config(
            text_config=Gemma3TextConfig(**TEXT, **text, layer_types=kinds),
            vision_config=SiglipVisionConfig(**{**CLIP, "image_size": 32}, vision_use_head=False),
            mm_tokens_per_image=16,
            image_token_index=IMAGE,
            boi_token_index=94,
            eoi_token_index=95,
            tie_word_embeddings=False,
        )

    @classmethod
    def more(cls, ids: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"token_type_ids": (ids == IMAGE).long()}

    @staticmethod
    def next_turn(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """Types are given for the complete sequence."""
        types = torch.cat([first["token_type_ids"], second["token_type_ids"]], 1)
        return {**Family.next_turn(first, second), "token_type_ids": types}

    @staticmethod
    def encode(model: Any, inputs: dict[str, torch.Tensor]) -> list[torch.Tensor]:
        frames = model.base_model.get_image_features(inputs["pixel_values"]).pooler_output
        return [video.flatten(0, 1) for video in frames.chunk(len(inputs["input_ids"]))]

    last_attention = LlavaOnevision.last_attention

    @staticmethod
    def pooled(received: torch.Tensor) -> torch.Tensor:
        return received.view(-1, 4, 2, 4, 2).mean((2, 4)).flatten()


FAMILIES = [
    LlavaOnevision,
    Qwen25VL,
    Qwen2VL,
    Qwen3VL,
    Qwen3VLMoe,
    Qwen35,
    Qwen35Moe,
    LlavaNextVideo,
    VideoLlava,
    InternVL,
    SmolVLM,
    Gemma3,
    Glm4v,
    Glm46V,
    VideoLlama3,
]
COMPLETE = [LlavaOnevision, Qwen25VL, Qwen3VL, Qwen35, Gemma3, VideoLlama3]
"""They run every setting of each test, the others take turns (``agreement.taking_turns``). What settings may
change is found among these: one run of tokens with a newline (LLaVA-OneVision); positions of three axes,
a tower with windows (Qwen2.5-VL); a run and a time for each step, DeepStack (Qwen3-VL); states (Qwen3.5);
frames that are images, layers with windows (Gemma 3); frames of any number of tokens (VideoLLaMA 3). What the
others have of their own, as Video-LLaVA its class tokens, lies in layout and tower; one setting shows it.
"""
FOUND = [*(family for family in FAMILIES if family.found), VideoLlama3Whole]
ENGINE = [*FAMILIES[:2], Gemma3]  # for what is the engine's alone


def build(family: Any, attention: str = "sdpa", dtype: torch.dtype = torch.float32) -> Any:
    """A random model whose attention is not flat, so that scores order tokens clearly.

    It is a copy of one that is made once and never runs: that takes half the time. The random numbers that
    come next are those that come after making it. Where transformers itself is changed, as in
    ``rounding``, call `make`.
    """
    if dtype == torch.float64:
        return make(family, attention, dtype)
    model, random_state = _made(family, attention, dtype)
    torch.set_rng_state(random_state)
    return copy.deepcopy(model).to(DEVICE)


@functools.cache
def _made(family: Any, attention: str, dtype: torch.dtype) -> tuple[Any, torch.Tensor]:
    """The model, on the CPU, and the state of the random numbers after it."""
    return make(family, attention, dtype).cpu(), torch.get_rng_state()


def make(family: Any, attention: str, dtype: torch.dtype = torch.float32) -> Any:
    """As `build`, but not a copy."""
    torch.manual_seed(0)
    config = family.config()
    if attention != fake_flash.NAME:
        config._attn_implementation = attention
    model = family.model_class(config).eval().to(dtype)
    if attention == fake_flash.NAME:
        torch_flash.set_attention(model, attention)
    if dtype == torch.float64 or DEVICE.type != "cpu":
        model.set_experts_implementation("eager")  # the grouped kernel: bfloat16 alone on a GPU
    decoder = {id(parameter) for parameter in decoder_of(model).parameters()}
    with torch.no_grad():
        words = model.get_input_embeddings().weight
        words[PAD] = words[START]  # zeros, as it is made, would stay zeros and hide what padding does
        for name, parameter in model.named_parameters():
            if id(parameter) in decoder and ("q_proj" in name or "k_proj" in name):
                parameter.mul_(20 if parameter.ndim == 2 else 1)
            elif "layers" in name and parameter.ndim == 2:
                parameter.mul_(5)
            elif "mm_input_projection" in name:  # Gemma 3 makes it zero
                parameter.normal_()
            elif "projector" in name and parameter.ndim == 2 and family.louder_projector:
                parameter.mul_(20)
            elif name.endswith("A_log"):
                parameter.fill_(-3)  # a state that lasts
    return model.to(DEVICE)


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
        return [START, *words[: self.before], *family.visual(self.frames), *words[self.before :], END]


def batch(family: Any, prompts: list[Prompt], dtype: torch.dtype = torch.float32) -> dict[str, torch.Tensor]:
    """Left-padded inputs of several samples."""
    rows = [prompt.ids(family) for prompt in prompts]
    length = max(map(len, rows))
    ids = torch.tensor([[PAD] * (length - len(row)) + row for row in rows])
    real = torch.tensor([[0] * (length - len(row)) + [1] * len(row) for row in rows])
    pixels = [family.pixels(prompt.frames, prompt.seed) for prompt in prompts]
    inputs = {name: family.joined(name, [p[name] for p in pixels]) for name in pixels[0]}
    inputs = {name: part.to(dtype) if part.is_floating_point() else part for name, part in inputs.items()}
    return {"input_ids": ids, "attention_mask": real, **family.more(ids), **inputs}
