"""What families say their towers and projectors cost, against torch's FlopCounterMode on real ones."""

from typing import Any

import pytest
import torch
from transformers import (
    AutoModel,
    Gemma3Config,
    Glm4vConfig,
    InternVLConfig,
    LlavaNextVideoConfig,
    LlavaNextVideoModel,
    LlavaOnevisionConfig,
    LlavaOnevisionModel,
    Qwen2_5_VLConfig,
    Qwen2VLConfig,
    Qwen3_5Config,
    Qwen3VLConfig,
    SmolVLMConfig,
    VideoLlama3Config,
    VideoLlavaConfig,
    VideoLlavaModel,
)
from transformers.models.glm4v.modeling_glm4v import Glm4vVisionModel
from transformers.models.qwen2_5_vl.modeling_qwen2_5_vl import Qwen2_5_VisionTransformerPretrainedModel
from transformers.models.qwen2_vl.modeling_qwen2_vl import Qwen2VisionTransformerPretrainedModel
from transformers.models.qwen3_5.modeling_qwen3_5 import Qwen3_5VisionModel
from transformers.models.qwen3_vl.modeling_qwen3_vl import Qwen3VLVisionModel

from adatp.models import family_of
from adatp.models.llava_onevision import LlavaOnevision
from flop_counting import QWEN2_05B, QWEN2_7B, counted, on_meta, within_one_percent


@pytest.mark.parametrize("text", [QWEN2_7B, QWEN2_05B], ids=["7B", "0.5B"])
def test_llava_onevision_video_features(text: dict[str, int]) -> None:
    config = LlavaOnevisionConfig(text_config={"model_type": "qwen2", **text})
    model = on_meta(lambda: LlavaOnevisionModel(config))
    run = counted(lambda: model.get_video_features(torch.empty(1, 32, 3, 384, 384, device="meta")))
    ours = family_of("llava_onevision")
    assert run == within_one_percent(ours.vision_flops(config, [ours.grid(config, 32, 0, 0)]))
    projected = counted(lambda: model.multi_modal_projector(torch.empty(32, 729, 1152, device="meta")))
    assert projected == LlavaOnevision().projector_flops(config, 32 * 729)


@pytest.mark.parametrize(
    ("config", "model"),
    [(LlavaNextVideoConfig(), LlavaNextVideoModel), (VideoLlavaConfig(), VideoLlavaModel)],
    ids=["LLaVA-NeXT-Video", "Video-LLaVA"],
)
def test_llavas_with_clip(config: Any, model: Any) -> None:
    frames, size = 8, config.vision_config.image_size
    llava = on_meta(lambda: model(config))
    run = counted(lambda: llava.get_video_features(torch.empty(1, frames, 3, size, size, device="meta")))
    ours = family_of(config.model_type)
    grid = ours.grid(config, frames, size, size)
    assert run == within_one_percent(ours.vision_flops(config, [grid]))


@pytest.mark.parametrize(
    "config",
    [
        InternVLConfig(),
        SmolVLMConfig(scale_factor=1),
        Gemma3Config(vision_config={"image_size": 224, "patch_size": 14}, mm_tokens_per_image=64),
    ],
    ids=lambda c: c.model_type,
)
def test_frames_as_images(config: Any) -> None:
    small = {"hidden_size": 96, "intermediate_size": 200, "num_hidden_layers": 2, "num_attention_heads": 2}
    for part in (config.vision_config, config.text_config):
        part.update(small)
    config._attn_implementation = "eager"
    model = AutoModel.from_config(config).eval()
    size = config.vision_config.image_size
    pixels = torch.randn(3, 3, *(size if isinstance(size, tuple) else (size, size)))
    given: dict[str, Any] = {"pixel_values": pixels}
    if config.model_type == "internvl":
        given |= {"vision_feature_layer": -1, "vision_feature_select_strategy": "default"}
    elif config.model_type == "smolvlm":
        given["pixel_values"] = pixels[None]
    run = counted(lambda: model.get_image_features(**given))
    ours = family_of(config.model_type)
    grid = ours.grid(config, 3, 0, 0)
    assert run == within_one_percent(ours.vision_flops(config, [grid]))


def test_video_llama_3_tower_and_projector() -> None:
    small = {"hidden_size": 96, "intermediate_size": 200, "num_hidden_layers": 2, "num_attention_heads": 2}
    config = VideoLlama3Config(vision_config=small, text_config={"model_type": "qwen2", **small})
    config._attn_implementation = "eager"
    model = AutoModel.from_config(config).eval()
    patch = config.vision_config.patch_size
    ours = family_of("video_llama_3")
    grids = [(2, 5, 3), (1, 2, 4)]  # in tokens of two by two patches
    thw = torch.tensor([(t, 2 * h, 2 * w) for t, h, w in grids])
    pixels = torch.randn(int(thw.prod(1).sum()), 3 * patch**2)
    run = counted(lambda: model.get_video_features(pixels, thw, torch.tensor([2, 2])))
    assert run == within_one_percent(ours.vision_flops(config, grids))
    assert ours.grid(config, 2, 5 * 2 * patch, 3 * 2 * patch) == grids[0]


def test_llava_onevision_projector_of_several_feature_layers() -> None:
    config = LlavaOnevisionConfig(
        text_config={"model_type": "qwen2", **QWEN2_05B}, vision_feature_layer=[-1, -2]
    )
    assert LlavaOnevision().projector_flops(config, 729) == 2 * 729 * (2 * 1152 * 896 + 896 * 896)


WIDE: dict[str, Any] = {"depth": 2, "num_heads": 2}
HIDDEN: dict[str, Any] = {**WIDE, "hidden_size": 96, "intermediate_size": 200, "out_hidden_size": 128}


@pytest.mark.parametrize(
    ("config", "model"),
    [
        (
            Qwen2VLConfig(vision_config={**WIDE, "embed_dim": 96, "hidden_size": 128}),
            Qwen2VisionTransformerPretrainedModel,
        ),
        (Qwen3VLConfig(vision_config={**HIDDEN, "deepstack_visual_indexes": [0, 1]}), Qwen3VLVisionModel),
        (Qwen3_5Config(vision_config=HIDDEN), Qwen3_5VisionModel),
        (Glm4vConfig(vision_config=HIDDEN), Glm4vVisionModel),
    ],
    ids=lambda value: getattr(value, "model_type", ""),
)
def test_towers_of_packed_patches(config: Any, model: Any) -> None:
    vision, ours = config.vision_config, family_of(config.model_type)
    vision._attn_implementation = "eager"
    grids, side = [(1, 10, 18), (2, 8, 8), (3, 4, 6)], vision.patch_size  # in patches
    patches = sum(t * h * w for t, h, w in grids)
    pixels = torch.randn(patches, 3 * vision.temporal_patch_size * side**2)
    tower = model(vision).eval()
    steps = torch.tensor([(1, h, w) for t, h, w in grids for _ in range(t)])  # as GLM-4.1V is given them
    tokens = [(t, h // 2, w // 2) for t, h, w in grids]
    assert counted(lambda: tower(pixels, steps)) == within_one_percent(ours.vision_flops(config, tokens))


@pytest.mark.parametrize("out", [2048, 3584], ids=["3B", "7B"])
def test_qwen2_5_vision_tower(out: int) -> None:
    config = Qwen2_5_VLConfig(vision_config={"hidden_size": 1280, "out_hidden_size": out})
    model = on_meta(lambda: Qwen2_5_VisionTransformerPretrainedModel(config.vision_config))
    # In patches. Windows are 8 x 8 patches: some are cut, some full, some larger than the frame.
    grids = [(1, 10, 18), (2, 8, 8), (1, 4, 6)]
    patches = sum(t * h * w for t, h, w in grids)

    def run() -> None:
        pixels = torch.empty(patches, 3 * 2 * 14 * 14, device="meta")
        model(pixels, torch.tensor(grids), position_ids=torch.empty(patches, 2, device="meta"))

    tokens = [(t, h // 2, w // 2) for t, h, w in grids]
    # To the last product: attention is less than 1 % of it.
    assert counted(run) == family_of("qwen2_5_vl").vision_flops(config, tokens)
