"""FLOPs of towers against torch's FlopCounterMode on real towers, on the meta device."""

from typing import Any

import pytest
import torch
from transformers import (
    CLIPVisionConfig,
    CLIPVisionModel,
    SiglipTextConfig,
    SiglipTextModel,
    SiglipVisionConfig,
    SiglipVisionModel,
)
from transformers.models.qwen2_vl.configuration_qwen2_vl import Qwen2VLVisionConfig

from adatp.tower_flops import (
    image_tower_flops,
    linear_flops,
    packed_tower_flops,
    siglip_text_flops,
    siglip_vision_flops,
)
from flop_counting import SO400M, counted, on_meta


@pytest.mark.parametrize(("layers", "head"), [(26, False), (27, True)], ids=["LLaVA-OneVision", "SigLIP"])
def test_siglip_vision_tower(layers: int, head: bool) -> None:
    config = SiglipVisionConfig(
        **SO400M, patch_size=14, image_size=384, num_hidden_layers=layers, vision_use_head=head
    )
    model = on_meta(lambda: SiglipVisionModel(config))
    run = counted(lambda: model(torch.empty(32, 3, 384, 384, device="meta")))
    assert run == siglip_vision_flops(config, 32)


def test_siglip_text_tower() -> None:
    config = SiglipTextConfig(**SO400M, num_hidden_layers=27, vocab_size=32000, projection_size=1152)
    model = on_meta(lambda: SiglipTextModel(config))
    run = counted(lambda: model(torch.zeros(3, 64, dtype=torch.int64, device="meta")))
    assert run == siglip_text_flops(config, 3, 64)


def test_clip_vision_tower() -> None:
    config = CLIPVisionConfig()
    model = on_meta(lambda: CLIPVisionModel(config))
    run = counted(lambda: model(torch.empty(3, 3, 224, 224, device="meta")))
    assert run == image_tower_flops(config, 3, class_token=True)


def test_images_of_any_size_count_their_own_patches() -> None:
    config = CLIPVisionConfig()
    patches = (config.image_size // config.patch_size) ** 2
    assert image_tower_flops(config, 2, patches=patches) == image_tower_flops(config, 2)
    assert image_tower_flops(config, 2, patches=2 * patches) > 2 * image_tower_flops(config, 2)


def test_a_chain_of_linear_maps() -> None:
    maps: Any = on_meta(lambda: torch.nn.Sequential(torch.nn.Linear(7, 5), torch.nn.Linear(5, 3)))
    assert counted(lambda: maps(torch.empty(11, 7, device="meta"))) == linear_flops(11, 7, 5, 3)


def test_pairs_of_patches_of_a_packed_tower() -> None:
    """They are summed over the layers. Those of full attention are the default."""
    config: Any = Qwen2VLVisionConfig(depth=3, embed_dim=8)
    grids, sizes = [(2, 4, 6), (1, 2, 2)], {"width": 8, "layer": 5, "token": 7}
    full = packed_tower_flops(config, grids, **sizes)
    assert packed_tower_flops(config, grids, **sizes, pairs=lambda r, c: 3 * (r * c) ** 2) == full
    more = packed_tower_flops(config, grids, **sizes, pairs=lambda r, c: 3 * (r * c) ** 2 + 1)
    assert more - full == 2 * (2 + 1) * 2 * 8  # frames x (scores and values) x width
