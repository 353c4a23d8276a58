"""Small random models of the families that share a decoder or a layout with those in ``families``."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
import transformers
from transformers import LlamaConfig

from adatp.models.converted.llava_video import LEAST, LlavaVideoConfig, LlavaVideoForConditionalGeneration
from families import (
    CLIP,
    IMAGE,
    LAYERS,
    QWEN_TOKENS,
    TEXT,
    VIDEO,
    Family,
    Glm4v,
    LlavaOnevision,
    Qwen2VL,
    Qwen3VL,
    Qwen25VL,
    Qwen35,
    qwen_text,
)

AUDIO = 89
VERSION = tuple(map(int, transformers.__version__.split(".")[:2]))


def of_transformers(name: str, since: tuple[int, int] = (0, 0)) -> Any:
    """A class of transformers, or nothing where it is missing or its code before `since` is too different."""
    return getattr(transformers, name, None) if since <= VERSION else None


class Qwen25OmniThinker(Qwen25VL):
    """Qwen2.5-VL's tower and decoder, and an audio tower beside."""

    name = "qwen2_5_omni_thinker"
    may_end_with_video = False
    model_class = of_transformers("Qwen2_5OmniThinkerForConditionalGeneration", since=(5, 23))

    @staticmethod
    def config() -> Any:
        vision = Qwen25VL.config().vision_config.to_dict()
        vision.pop("model_type")
        audio = {"encoder_layers": 1, "encoder_attention_heads": 2, "encoder_ffn_dim": 16, "d_model": 16}
        return of_transformers("Qwen2_5OmniThinkerConfig")(
            text_config=qwen_text(),
            vision_config=vision,
            audio_config={**audio, "output_dim": 32, "num_mel_bins": 16},
            audio_token_index=AUDIO,
            image_token_index=IMAGE,
            video_token_index=VIDEO,
            audio_start_token_id=87,
            audio_end_token_id=88,
            vision_start_token_id=94,
            vision_end_token_id=95,
        )

    @classmethod
    def pixels(cls, frames: int, seed: int) -> dict[str, torch.Tensor]:
        pixels = Qwen2VL.pixels.__func__(cls, frames, seed)  # type: ignore[attr-defined]
        return {**pixels, "video_second_per_grid": torch.tensor([1.0])}

    @classmethod
    def more(cls, ids: torch.Tensor) -> dict[str, torch.Tensor]:
        """Its positions come from the ids alone."""
        return {}


class Qwen3OmniMoeThinker(Qwen3VL):
    """Qwen3-VL's tower with DeepStack, a mixture of experts, an audio tower beside."""

    name = "qwen3_omni_moe_thinker"
    may_end_with_video = False

    @classmethod
    def more(cls, ids: torch.Tensor) -> dict[str, torch.Tensor]:
        return {}

    @classmethod
    def pixels(cls, frames: int, seed: int) -> dict[str, torch.Tensor]:
        return {**super().pixels(frames, seed), "video_second_per_grid": torch.tensor([1.0])}

    @classmethod
    def visual(cls, frames: int) -> list[int]:
        """One run, as in Qwen2.5-Omni."""
        return [94, *[VIDEO] * (16 * frames), 95]

    model_class = of_transformers("Qwen3OmniMoeThinkerForConditionalGeneration", since=(5, 23))

    @classmethod
    def config(cls) -> Any:
        experts = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 24, "head_dim": 8}
        audio = {"encoder_layers": 1, "encoder_attention_heads": 2, "encoder_ffn_dim": 16, "d_model": 16}
        vision = {**cls.vision, "image_size": 32}
        return of_transformers("Qwen3OmniMoeThinkerConfig")(
            text_config=qwen_text(**experts),
            vision_config=vision,
            audio_config={**audio, "output_dim": 32, "num_mel_bins": 16, "downsample_hidden_size": 8},
            audio_token_id=AUDIO,
            image_token_id=IMAGE,
            video_token_id=VIDEO,
            audio_start_token_id=87,
            vision_start_token_id=94,
            vision_end_token_id=95,
        )


class Cosmos3Omni(Qwen3VL):
    """Qwen3-VL under another name."""

    name = "cosmos3_omni"
    model_class = of_transformers("Cosmos3OmniForConditionalGeneration")

    @classmethod
    def config(cls) -> Any:
        text = {"model_type": "qwen3_vl_text", **qwen_text(head_dim=8)}
        vision = {"model_type": "qwen3_vl_vision", **cls.vision}
        return of_transformers("Cosmos3OmniConfig")(text_config=text, vision_config=vision, **QWEN_TOKENS)


class HyperClovaX(Qwen25VL):
    """Qwen2.5-VL's tower, a decoder of its own with plain rotary embeddings."""

    name = "hyperclovax_vision_v2"
    model_class = of_transformers("HyperCLOVAXVisionV2ForConditionalGeneration")
    multimodal_rope = False

    @staticmethod
    def config() -> Any:
        vision = Qwen25VL.config().vision_config.to_dict()
        return of_transformers("HyperCLOVAXVisionV2Config")(
            text_config={"model_type": "hyperclovax", **TEXT},
            vision_config={**vision, "model_type": "qwen2_5_vl_vision"},
            image_token_id=IMAGE,
            video_token_id=VIDEO,
            tie_word_embeddings=False,
        )

    pixels = Qwen2VL.pixels

    @staticmethod
    def last_attention(model: Any) -> Any:
        return model.base_model.vision_model.blocks[-1].attn


class Exaone45(Qwen25VL):
    """Windows in the tower, which has fewer keys than queries; every other layer of the decoder has one."""

    name = "exaone4_5"
    model_class = of_transformers("Exaone4_5_ForConditionalGeneration")
    multimodal_rope = False
    full = (1, 3, 5)
    attentions = ("eager", "sdpa")
    pixels = Qwen2VL.pixels

    @staticmethod
    def config() -> Any:
        vision = Qwen25VL.config().vision_config.to_dict()
        vision.pop("model_type")
        kinds = ["sliding_attention", "full_attention"] * (LAYERS // 2)
        text = {"model_type": "exaone4", **TEXT, "layer_types": kinds, "sliding_window": 24}
        return of_transformers("Exaone4_5_Config")(
            text_config={**text, "sliding_window_pattern": 2, "head_dim": 8},
            vision_config={**vision, "num_heads": 2, "num_key_value_heads": 1},
            image_token_id=IMAGE,
            video_token_id=VIDEO,
        )


class Glm4vMoe(Glm4v):
    """The first layer is dense, the others choose among experts."""

    name = "glm4v_moe"
    attentions = (
        "eager",
        "sdpa",
    )  # transformers takes its positions for packed sequences under flash attention
    model_class = of_transformers("Glm4vMoeForConditionalGeneration")

    @classmethod
    def config(cls) -> Any:
        dense = Glm4v.config()
        experts = {
            "moe_intermediate_size": 24,
            "num_experts_per_tok": 2,
            "n_routed_experts": 4,
            "head_dim": 8,
        }
        vision = dense.vision_config.to_dict()
        vision.pop("model_type")
        ids = {name: value for name, value in dense.to_dict().items() if name.endswith("token_id") and value}
        ids = {name: value for name, value in ids.items() if "image" in name or "video" in name}
        text = qwen_text(**experts, n_shared_experts=1, first_k_dense_replace=1)
        text["rope_parameters"]["partial_rotary_factor"] = 1.0
        return of_transformers("Glm4vMoeConfig")(text_config=text, vision_config=vision, **ids)


class GlmOcr(Glm4v):
    """The same with a narrower head."""

    name = "glm_ocr"
    model_class = of_transformers("GlmOcrForConditionalGeneration")
    configuration = of_transformers("GlmOcrConfig")


class Ernie45VL(Qwen2VL):
    """Two temporal steps become one; visual tokens have experts of their own."""

    name = "ernie4_5_vl_moe"
    attentions = ("eager", "sdpa")  # as GLM-4.5V
    model_class = of_transformers("Ernie4_5_VLMoeForConditionalGeneration")

    @staticmethod
    def last_attention(model: Any) -> Any:
        return model.base_model.vision_tower.blocks[-1].attn

    @staticmethod
    def pooled(received: torch.Tensor) -> torch.Tensor:
        """Four patches in each of two steps."""
        return received.view(-1, 2, 4, 4).mean((1, 3)).flatten()

    @staticmethod
    def config() -> Any:
        vision = {"depth": 2, "hidden_size": 32, "num_heads": 2, "intermediate_size": 32, "patch_size": 4}
        text = qwen_text(
            moe_intermediate_size=[24, 16], moe_k=2, moe_num_experts=4, moe_num_shared_experts=1, head_dim=8
        )
        text["rope_parameters"] = {"rope_type": "default", "mrope_section": [1, 1, 2], "rope_theta": 1e4}
        return of_transformers("Ernie4_5_VLMoeConfig")(
            text_config=text,
            vision_config=vision,
            image_token_id=IMAGE,
            video_token_id=VIDEO,
            image_start_token_id=96,
            image_end_token_id=97,
            video_start_token_id=94,
            video_end_token_id=95,
            tie_word_embeddings=False,
        )

    @classmethod
    def more(cls, ids: torch.Tensor) -> dict[str, torch.Tensor]:
        """Brackets count as visual for the experts."""
        kinds = Qwen2VL.more.__func__(cls, ids)  # type: ignore[attr-defined]
        return {
            **kinds,
            "moe_mm_token_type_ids": torch.isin(ids, torch.tensor([IMAGE, VIDEO, 94, 95])).long(),
        }

    @classmethod
    def lacks(cls) -> dict[str, str]:
        why = "transformers names no experts for a draft that is read with the prompt, pruned or not"
        return {**super().lacks(), "assisted": why}

    @classmethod
    def pixels(cls, frames: int, seed: int) -> dict[str, torch.Tensor]:
        generator = torch.Generator().manual_seed(seed)
        return {
            "pixel_values_videos": torch.randn(2 * frames * 16, 3 * 4 * 4, generator=generator),
            "video_grid_thw": torch.tensor([[2 * frames, 4, 4]]),
        }

    @staticmethod
    def image() -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        pixels = torch.randn(16, 3 * 4 * 4, generator=torch.Generator().manual_seed(9))
        return torch.tensor([96, *[IMAGE] * 4, 97]), {
            "pixel_values": pixels,
            "image_grid_thw": torch.tensor([[1, 4, 4]]),
        }


class Cosmos3Edge(Qwen2VL):
    """SigLIP on frames of any size, a run and a timestamp a frame, a plain MLP in the decoder."""

    name = "cosmos3_edge"
    model_class = of_transformers("Cosmos3EdgeForConditionalGeneration")
    step = 1
    tokens_a_frame = 16

    @staticmethod
    def last_attention(model: Any) -> Any:
        return model.base_model.visual.encoder.layers[-1].self_attn

    @staticmethod
    def config() -> Any:
        vision = {**CLIP, "num_hidden_layers": 2, "num_patches": 64}
        vision.pop("image_size")
        text = {**qwen_text(head_dim=8), "hidden_act": "relu2"}
        return of_transformers("Cosmos3EdgeConfig")(
            text_config=text, vision_config=vision, projector_hidden_size=16, **QWEN_TOKENS
        )

    @classmethod
    def visual(cls, frames: int) -> list[int]:
        return [token for frame in range(frames) for token in (80 + frame % 8, 94, *[VIDEO] * 16, 95)]

    @classmethod
    def pixels(cls, frames: int, seed: int) -> dict[str, torch.Tensor]:
        generator = torch.Generator().manual_seed(seed)
        return {
            "pixel_values_videos": torch.randn(frames * 64, 3 * 4 * 4, generator=generator),
            "video_grid_thw": torch.tensor([[frames, 8, 8]]),
        }

    @staticmethod
    def image() -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        pixels = torch.randn(16, 3 * 4 * 4, generator=torch.Generator().manual_seed(9))
        return torch.tensor([94, *[IMAGE] * 4, 95]), {
            "pixel_values": pixels,
            "image_grid_thw": torch.tensor([[1, 4, 4]]),
        }


class CohereCompass(Qwen3VL):
    """DeepStack; a window in every other layer."""

    name = "cohere_compass"
    tower_known = False
    model_class = of_transformers("CohereCompassForConditionalGeneration")
    full = (1, 3, 5)
    attentions = ("eager", "sdpa")

    @classmethod
    def config(cls) -> Any:
        kinds = ["sliding_attention", "full_attention"] * (LAYERS // 2)
        rope = {kind: {"rope_type": "default", "rope_theta": 1e4} for kind in kinds}
        text = {**TEXT, "layer_types": kinds, "sliding_window": 24, "rope_parameters": rope}
        return of_transformers("CohereCompassConfig")(
            text_config=text, vision_config=cls.vision, **QWEN_TOKENS
        )


class MuseGlimmer(Qwen2VL):
    """A window in every other layer, queries gated, no positions in the layers without a window."""

    name = "muse_glimmer"
    tower_known = False
    model_class = of_transformers("MuseGlimmerForConditionalGeneration")
    multimodal_rope = False
    full = (1, 3, 5)
    attentions = ("eager", "sdpa")
    configuration: ClassVar[Any] = of_transformers("MuseGlimmerConfig")
    experts: ClassVar[dict[str, Any]] = {}
    audio: ClassVar[dict[str, Any]] = {}

    @classmethod
    def config(cls) -> Any:
        kinds = ["sliding_attention", "full_attention"] * (LAYERS // 2)
        text = {**TEXT, "layer_types": kinds, "sliding_window": 24, "head_dim": 8, **cls.experts}
        vision = {
            "hidden_size": 32,
            "intermediate_size": 32,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
        }
        side = {"pos_emb_height": 8, "pos_emb_width": 8, "max_position_embeddings": 64}
        return cls.configuration(
            text_config={**text, "layer_rope_theta": [1e4, 0] * (LAYERS // 2)},
            vision_config={**vision, **side, "patch_size": 4},
            image_token_id=IMAGE,
            video_token_id=VIDEO,
            out_hidden_size=4 * 32,
            projector_hidden_size=16,
            **cls.audio,
        )


class MuseSpark(MuseGlimmer):
    """The same with a mixture of experts after a dense layer, and an audio tower."""

    name = "muse_spark"
    model_class = of_transformers("MuseSparkForConditionalGeneration")
    configuration = of_transformers("MuseSparkConfig")
    experts: ClassVar[dict[str, Any]] = {
        "moe_intermediate_size": 24,
        "num_local_experts": 4,
        "num_experts_per_tok": 2,
        "moe_hidden_size": 16,
        "mlp_layer_types": ["dense", *["sparse"] * (LAYERS - 1)],
    }
    audio: ClassVar[dict[str, Any]] = {
        "audio_token_id": AUDIO,
        "audio_config": {"hidden_sizes": [8, 8, 8, 8], "depths": [1, 1, 1, 1], "out_hidden_size": 32},
    }


class Molmo2(Family):
    """2 x 2 patches pooled to a token; all frames' tokens see each other, in one block."""

    name = "molmo2"
    attentions = ("eager", "sdpa")  # flash attention has no mask by which frames see each other
    tower_known = False
    model_class = of_transformers("Molmo2ForConditionalGeneration")
    token = IMAGE
    tokens_a_frame = 16
    louder_projector = True

    @staticmethod
    def config() -> Any:
        vision = {**CLIP, "image_size": [32, 32], "num_position_embeddings": 64, "head_dim": 12}
        adapter = {
            "vision_feature_layer": [-2, -3],
            "hidden_size": 24,
            "num_attention_heads": 2,
            "head_dim": 12,
        }
        text = {**TEXT, "additional_vocab_size": 8, "head_dim": 8}
        text.pop("tie_word_embeddings")
        return of_transformers("Molmo2Config")(
            vision_config={**vision, "num_key_value_heads": 2},
            adapter_config={
                **adapter,
                "num_key_value_heads": 2,
                "intermediate_size": 16,
                "text_hidden_size": 32,
            },
            text_config=text,
            image_start_token_id=94,
            image_end_token_id=95,
            low_res_image_start_token_id=96,
            frame_start_token_id=97,
            frame_end_token_id=98,
            image_patch_id=IMAGE,
        )

    @classmethod
    def visual(cls, frames: int) -> list[int]:
        return [token for frame in range(frames) for token in (80 + frame % 8, 97, *[IMAGE] * 16, 98)]

    @classmethod
    def more(cls, ids: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"mm_token_type_ids": (ids == IMAGE).long()}

    @staticmethod
    def next_turn(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """The mask reads types by their place in the complete sequence."""
        types = torch.cat([first["mm_token_type_ids"], second["mm_token_type_ids"]], 1)
        return {**Family.next_turn(first, second), "mm_token_type_ids": types}

    @staticmethod
    def pixels(frames: int, seed: int) -> dict[str, torch.Tensor]:
        """Which patches of all frames a token pools: 2 x 2 here."""
        generator = torch.Generator().manual_seed(seed)
        patches = torch.arange(frames * 64).view(frames, 4, 2, 4, 2).transpose(2, 3).reshape(-1, 4)
        return {
            "pixel_values_videos": torch.randn(frames, 64, 3 * 4 * 4, generator=generator),
            "video_token_pooling": patches,
            "video_grids": torch.tensor([[frames, 4, 4]]),
        }

    @staticmethod
    def joined(name: str, parts: list[torch.Tensor]) -> torch.Tensor:
        """Patches are counted over all the videos of a batch."""
        if name == "video_token_pooling":
            before = [sum(part.numel() for part in parts[:number]) for number in range(len(parts))]
            parts = [part + count for part, count in zip(parts, before, strict=True)]
        return torch.cat(parts)

    @classmethod
    def lacks(cls) -> dict[str, str]:
        return {**super().lacks(), "images": "transformers refuses images beside a video"}


class PerceptionLM(LlavaOnevision):
    """One tower for images and videos, one run a video."""

    name = "perception_lm"
    in_chunks = False
    tower_known = False
    model_class = of_transformers("PerceptionLMForConditionalGeneration", since=(5, 23))
    trailing = 0

    @staticmethod
    def config() -> Any:
        return of_transformers("PerceptionLMConfig")(
            text_config=LlamaConfig(**TEXT),
            vision_config={"model_type": "clip_vision_model", **CLIP, "model_args": {"embed_dim": 24}},
            projector_pooling_ratio=2,
            image_token_id=IMAGE,
            video_token_id=VIDEO,
            tie_word_embeddings=False,
        )

    @staticmethod
    def image() -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        pixels = torch.randn(1, 1, 3, 16, 16, generator=torch.Generator().manual_seed(9))
        return torch.full((4,), IMAGE), {"pixel_values": pixels}

    @classmethod
    def encode(cls, model: Any, inputs: dict[str, torch.Tensor]) -> list[torch.Tensor]:
        pixels = inputs["pixel_values_videos"]
        frames = model.base_model.get_image_features(pixels).pooler_output
        return [video.flatten(0, 1) for video in frames.split(pixels.shape[1])]


class MiniCPMV46(Qwen35):
    """Frames of any size, a run each; a decoder with linear attention and plain rotary embeddings."""

    name = "minicpmv4_6"
    tower_known = False
    model_class = of_transformers("MiniCPMV4_6ForConditionalGeneration")
    configuration = of_transformers("MiniCPMV4_6Config")
    step = 1
    tokens_a_frame = 16
    several_videos = False
    multimodal_rope = False
    ids: ClassVar[dict[str, int]] = {}

    @classmethod
    def config(cls) -> Any:
        text = Qwen35.config().text_config.to_dict()
        vision = {**CLIP, "hidden_size": 32, "num_hidden_layers": 3, "image_size": 64}
        return cls.configuration(
            text_config={**text, "model_type": "qwen3_5_text"},
            vision_config=vision,
            insert_layer_id=1,
            downsample_mode="16x",
            image_token_id=IMAGE,
            video_token_id=VIDEO,
            **cls.ids,
        )

    @classmethod
    def visual(cls, frames: int) -> list[int]:
        return [token for _ in range(frames) for token in (94, *[VIDEO] * 16, 95)]

    @classmethod
    def pixels(cls, frames: int, seed: int) -> dict[str, torch.Tensor]:
        generator = torch.Generator().manual_seed(seed)
        return {
            "pixel_values_videos": torch.randn(1, 3, 4, frames * 256 * 4, generator=generator),
            "target_sizes_videos": torch.tensor([[16, 16]] * frames),
        }

    @staticmethod
    def joined(name: str, parts: list[torch.Tensor]) -> torch.Tensor:
        """All patches stand side by side, as one image."""
        return torch.cat(parts, 3 if name == "pixel_values_videos" else 0)

    @staticmethod
    def image() -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        pixels = torch.randn(1, 3, 4, 64 * 4, generator=torch.Generator().manual_seed(9))
        return torch.tensor([94, *[IMAGE] * 4, 95]), {
            "pixel_values": pixels,
            "target_sizes": torch.tensor([[8, 8]]),
        }


class MiniCPMOcr(MiniCPMV46):
    """MiniCPM-V 4.6 under another name."""

    name = "minicpm_ocr"
    model_class = of_transformers("MiniCPMOcrForConditionalGeneration")
    configuration = of_transformers("MiniCPMOcrConfig")


class MiniCPMV47(MiniCPMV46):
    """The same with positions on a canvas."""

    name = "minicpmv4_7"
    model_class = of_transformers("MiniCPMV4_7ForConditionalGeneration")
    configuration = of_transformers("MiniCPMV4_7Config")
    multimodal_rope = True
    ids: ClassVar[dict[str, int]] = {
        "image_start_id": 94,
        "image_end_id": 95,
        "slice_start_id": 96,
        "slice_end_id": 97,
        "newline_id": 98,
    }


class Gemma4(Family):
    """Frames of any size, pooled; every other layer has a window; each layer has inputs of its own."""

    name = "gemma4"
    tokens_a_frame = 16
    model_class = of_transformers("Gemma4ForConditionalGeneration", since=(5, 23))
    full = (1, 3, 5)
    attentions = ("eager", "sdpa")
    configuration: ClassVar[Any] = of_transformers("Gemma4Config")
    text: ClassVar[dict[str, Any]] = {"hidden_size_per_layer_input": 8, "vocab_size_per_layer_input": 100}
    vision: ClassVar[dict[str, Any]] = {
        "hidden_size": 24,
        "intermediate_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "num_key_value_heads": 2,
        "head_dim": 12,
        "patch_size": 4,
        "pooling_kernel_size": 2,
        "position_embedding_size": 64,
    }

    @staticmethod
    def last_attention(model: Any) -> Any:
        return model.base_model.vision_tower.encoder.layers[-1].self_attn

    @staticmethod
    def pooled(received: torch.Tensor) -> torch.Tensor:
        """Patches in raster order, 8 x 8 a frame."""
        return received.view(-1, 4, 2, 4, 2).mean((2, 4)).flatten()

    @classmethod
    def config(cls) -> Any:
        kinds = ["sliding_attention", "full_attention"] * (LAYERS // 2)
        rope = {
            "sliding_attention": {"rope_type": "default", "rope_theta": 1e4},
            "full_attention": {"rope_type": "default", "rope_theta": 1e4},
        }
        text = {
            **TEXT,
            "head_dim": 8,
            "layer_types": kinds,
            "sliding_window": 24,
            "rope_parameters": rope,
            **cls.text,
        }
        text["global_head_dim"] = 16
        return cls.configuration(
            text_config=text,
            vision_config=cls.vision,
            boi_token_id=94,
            eoi_token_id=95,
            image_token_id=IMAGE,
            video_token_id=VIDEO,
            boa_token_id=87,
            eoa_token_index=88,
            audio_token_id=AUDIO,
            tie_word_embeddings=False,
        )

    @classmethod
    def visual(cls, frames: int) -> list[int]:
        return [token for frame in range(frames) for token in (80 + frame % 8, 94, *[VIDEO] * 16, 95)]

    @classmethod
    def more(cls, ids: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"mm_token_type_ids": (ids == IMAGE).long() + 2 * (ids == VIDEO).long()}

    @staticmethod
    def places(frames: int) -> torch.Tensor:
        """(frames, 64, 2): column and row of each patch."""
        row, column = torch.cartesian_prod(torch.arange(8), torch.arange(8)).unbind(1)
        return torch.stack([column, row], 1).expand(frames, -1, -1)

    @classmethod
    def pixels(cls, frames: int, seed: int) -> dict[str, torch.Tensor]:
        generator = torch.Generator().manual_seed(seed)
        return {
            "pixel_values_videos": torch.rand(frames, 64, 3 * 4 * 4, generator=generator),
            "video_position_ids": cls.places(frames),
            "num_frames_per_video": torch.tensor([frames]),
        }

    @classmethod
    def image(cls) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        pixels = torch.rand(1, 64, 3 * 4 * 4, generator=torch.Generator().manual_seed(9))
        return torch.tensor([94, *[IMAGE] * 16, 95]), {
            "pixel_values": pixels,
            "image_position_ids": cls.places(1),
        }


class Gemma4Unified(Gemma4):
    """No tower: patches are projected; a frame's tokens see each other."""

    name = "gemma4_unified"
    static_cache = False
    tower_known = False
    model_class = of_transformers("Gemma4UnifiedForConditionalGeneration")
    configuration = of_transformers("Gemma4UnifiedConfig")
    text: ClassVar[dict[str, Any]] = {"use_bidirectional_attention": "vision"}
    vision: ClassVar[dict[str, Any]] = {
        "patch_size": 4,
        "pooling_kernel_size": 1,
        "mm_embed_dim": 24,
        "mm_posemb_size": 16,
        "output_proj_dims": 24,
    }

    @classmethod
    def lacks(cls) -> dict[str, str]:
        why = "the masks that transformers gives a second turn are not those of one sequence, pruned or not"
        return {**super().lacks(), "turns": why}

    @staticmethod
    def places(frames: int) -> torch.Tensor:
        """(frames, 16, 2)."""
        row, column = torch.cartesian_prod(torch.arange(4), torch.arange(4)).unbind(1)
        return torch.stack([column, row], 1).expand(frames, -1, -1)

    @classmethod
    def pixels(cls, frames: int, seed: int) -> dict[str, torch.Tensor]:
        made = super().pixels(frames, seed)
        return {**made, "pixel_values_videos": made["pixel_values_videos"][:, :16]}

    @classmethod
    def image(cls) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        ids, made = super().image()
        return ids, {**made, "pixel_values": made["pixel_values"][:, :16]}


class Lfm3VL(Qwen2VL):
    """Short convolutions in half of the layers, and windows; convolutions between patches in the tower."""

    name = "lfm3_vl"
    model_class = of_transformers("Lfm3VlForConditionalGeneration")
    tower_known = False
    multimodal_rope = False
    full = (1, 3, 5)
    attentions = ("eager", "sdpa")

    @classmethod
    def lacks(cls) -> dict[str, str]:
        return {"assisted": "transformers assists no model with a state", **super().lacks()}

    @staticmethod
    def config() -> Any:
        kinds = ["conv", "full_attention", "sliding_attention", "full_attention", "conv", "full_attention"]
        text = {"model_type": "lfm3", **TEXT, "layer_types": kinds, "sliding_window": 24, "head_dim": 8}
        vision = {
            "hidden_size": 32,
            "intermediate_size": 32,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
        }
        kinds = ["conv", "full_attention"]
        return of_transformers("Lfm3VlConfig")(
            text_config={**text, "conv_L_cache": 3},
            vision_config={**vision, "num_key_value_heads": 1, "patch_size": 4, "layer_types": kinds},
            projector_hidden_size=16,
            tie_word_embeddings=False,
            **QWEN_TOKENS,
        )


class KimiK25(Qwen2VL):
    """Latent attention; a run for every few frames, which are pooled to one."""

    name = "kimi_k25"
    several_videos = False
    # Before, transformers could not split the features of several frames.
    model_class = of_transformers("Kimi_K25ForConditionalGeneration", since=(5, 24))
    tower_known = False
    multimodal_rope = False
    tokens_a_frame = 16

    @staticmethod
    def config() -> Any:
        latent = {
            "q_lora_rank": 8,
            "kv_lora_rank": 8,
            "qk_rope_head_dim": 4,
            "qk_nope_head_dim": 4,
            "v_head_dim": 8,
        }
        experts = {"moe_intermediate_size": 24, "n_routed_experts": 4, "num_experts_per_tok": 2, "n_group": 1}
        text = {"model_type": "deepseek_v3", **TEXT, "num_key_value_heads": 4, **latent, **experts}
        vision = {
            "hidden_size": 32,
            "intermediate_size": 32,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
        }
        return of_transformers("Kimi_K25Config")(
            text_config={**text, "topk_group": 1, "first_k_dense_replace": 1},
            vision_config={**vision, "patch_size": 4, "pos_emb_height": 8, "pos_emb_width": 8},
            projection_hidden_size=32,
            tie_word_embeddings=False,
            **QWEN_TOKENS,
        )

    @classmethod
    def visual(cls, frames: int) -> list[int]:
        return [token for frame in range(frames) for token in (80 + frame % 8, 94, *[VIDEO] * 16, 95)]

    @classmethod
    def pixels(cls, frames: int, seed: int) -> dict[str, torch.Tensor]:
        """Two frames each."""
        generator = torch.Generator().manual_seed(seed)
        return {
            "pixel_values_videos": torch.randn(frames * 128, 3, 4, 4, generator=generator),
            "video_grid_thw": torch.tensor([[2, 8, 8]] * frames),
        }

    @staticmethod
    def image() -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        pixels = torch.randn(64, 3, 4, 4, generator=torch.Generator().manual_seed(9))
        return torch.tensor([94, *[IMAGE] * 16, 95]), {
            "pixel_values": pixels,
            "image_grid_thw": torch.tensor([[1, 8, 8]]),
        }


class NemotronHOmni(Qwen2VL):
    """Layers that are a Mamba, attention, an MLP or a mixture of experts alone; images' placeholders."""

    name = "nemotron_h_omni"
    model_class = of_transformers("NemotronH_Omni_Reasoning_V3", since=(5, 24))
    token = IMAGE
    images_beside = False
    multimodal_rope = False
    kinds = ("full_attention", "linear_attention", "full_attention", "moe", "linear_attention")
    kinds = (*kinds, "full_attention", "mlp", "linear_attention", "full_attention")
    layers = tuple(range(len(kinds)))
    full = (0, 2, 5, 8)
    step = 2
    tokens_a_frame = 16

    @classmethod
    def lacks(cls) -> dict[str, str]:
        return {"assisted": "transformers assists no model with a state", **super().lacks()}

    @classmethod
    def config(cls) -> Any:
        mamba: dict[str, Any] = {
            "mamba_num_heads": 4,
            "mamba_head_dim": 8,
            "n_groups": 2,
            "ssm_state_size": 8,
        }
        # transformers limits a prompt's time steps from below and those of decoding not, pruned or not.
        mamba["time_step_min"] = 1e-12
        experts = {
            "n_routed_experts": 4,
            "num_experts_per_tok": 2,
            "moe_intermediate_size": 24,
            "moe_latent_size": 16,
        }
        text = {**TEXT, **mamba, **experts, "chunk_size": 16, "layers_block_type": list(cls.kinds)}
        vision = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "patch_size": 4}
        return of_transformers("NemotronH_Omni_Reasoning_V3_Config")(
            text_config={**text, "moe_shared_expert_intermediate_size": 40, "head_dim": 8},
            vision_config={**vision, "max_img_size": 64, "video_temporal_patch_size": 2},
            vision_hidden_size=32,
            projector_hidden_size=16,
            image_token_id=IMAGE,
            video_token_id=VIDEO,
            audio_token_id=AUDIO,
        )

    @staticmethod
    def last_attention(model: Any) -> Any:
        return model.vision_model.encoder.layer[-1].attention

    @staticmethod
    def pooled(received: torch.Tensor) -> torch.Tensor:
        """8 x 8 patches a pair of frames, after three class tokens and seven registers."""
        return received.view(-1, 74)[:, 10:].reshape(-1, 4, 2, 4, 2).mean((2, 4)).flatten()

    @classmethod
    def visual(cls, frames: int) -> list[int]:
        return [token for frame in range(frames) for token in (80 + frame % 8, 94, *[IMAGE] * 16, 95)]

    @classmethod
    def pixels(cls, frames: int, seed: int) -> dict[str, torch.Tensor]:
        generator = torch.Generator().manual_seed(seed)
        return {"pixel_values_videos": torch.randn(1, frames, 6, 32, 32, generator=generator)}


class LlavaVideo(LlavaOnevision):
    """A newline after every row of every frame."""

    name = "llava_video"
    model_class = LlavaVideoForConditionalGeneration if VERSION >= LEAST else None

    tokens_a_frame = 16

    @staticmethod
    def config() -> Any:
        said = LlavaOnevision.config().to_dict()
        said["vision_config"]["image_size"], said["image_grid_pinpoints"] = 32, [[32, 32]]
        return LlavaVideoConfig(**{name: part for name, part in said.items() if name != "model_type"})

    @classmethod
    def visual(cls, frames: int) -> list[int]:
        return [VIDEO] * (20 * frames)

    @staticmethod
    def pixels(frames: int, seed: int) -> dict[str, torch.Tensor]:
        generator = torch.Generator().manual_seed(seed)
        return {"pixel_values_videos": torch.randn(1, frames, 3, 32, 32, generator=generator)}

    @staticmethod
    def image() -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        pixels = torch.randn(1, 2, 3, 32, 32, generator=torch.Generator().manual_seed(9))
        return torch.full((64 + 64 + 8,), IMAGE), {
            "pixel_values": pixels,
            "image_sizes": torch.tensor([[32, 32]]),
        }

    @staticmethod
    def pooled(received: torch.Tensor) -> torch.Tensor:
        """8 x 8 patches a frame."""
        return received.view(-1, 4, 2, 4, 2).mean((2, 4)).flatten()

    @classmethod
    def shown(cls, placeholders: torch.Tensor) -> torch.Tensor:
        """Four of five."""
        return placeholders.unflatten(0, (-1, 5))[:, :4].flatten(0, 1)

    @classmethod
    def encode(cls, model: Any, inputs: dict[str, torch.Tensor]) -> list[torch.Tensor]:
        return list(model.base_model.get_video_features(inputs["pixel_values_videos"]).pooler_output)


MORE: list[Any] = [
    Qwen25OmniThinker,
    Qwen3OmniMoeThinker,
    Cosmos3Omni,
    HyperClovaX,
    Exaone45,
    Glm4vMoe,
    GlmOcr,
    Ernie45VL,
    Cosmos3Edge,
    CohereCompass,
    MuseGlimmer,
    MuseSpark,
    Molmo2,
    PerceptionLM,
    MiniCPMV46,
    MiniCPMV47,
    MiniCPMOcr,
    Gemma4,
    Gemma4Unified,
    Lfm3VL,
    KimiK25,
    LlavaVideo,
    NemotronHOmni,
]
MORE = [family for family in MORE if family.model_class is not None]
