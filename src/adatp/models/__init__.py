"""Model families: what is peculiar to each, one small file a family, found by ``config.model_type``."""

from __future__ import annotations

from adatp.models.family import Family, TowerCall
from adatp.models.gemma3 import Gemma3
from adatp.models.glm4v import Glm4v
from adatp.models.internvl import InternVL
from adatp.models.llava_next_video import LlavaNextVideo
from adatp.models.llava_onevision import LlavaOnevision
from adatp.models.qwen2_5_vl import Qwen25VL
from adatp.models.qwen2_vl import Qwen2VL
from adatp.models.qwen3_vl import Qwen3VL
from adatp.models.smolvlm import SmolVLM
from adatp.models.video_llama_3 import VideoLlama3
from adatp.models.video_llava import VideoLlava

FAMILIES: dict[str, Family] = {
    "llava_onevision": LlavaOnevision(),
    "llava_next_video": LlavaNextVideo(),
    "video_llava": VideoLlava(),
    "qwen2_vl": Qwen2VL(),
    "qwen2_5_vl": Qwen25VL(),
    "qwen3_vl": Qwen3VL(),
    "qwen3_vl_moe": Qwen3VL(),
    "qwen3_5": Qwen3VL(),
    "qwen3_5_moe": Qwen3VL(),
    "internvl": InternVL(),
    "smolvlm": SmolVLM(),
    "gemma3": Gemma3(),
    "glm4v": Glm4v(),
    "glm46v": Glm4v(),
    "video_llama_3": VideoLlama3(),
}


class UnsupportedModelError(ValueError):
    """No family file knows this model."""


def family_of(model_type: str) -> Family:
    """The family of the models whose config has this ``model_type``.

    Raises:
        UnsupportedModelError: it is not in the registry.
    """
    if model_type not in FAMILIES:
        raise UnsupportedModelError(
            f"model type {model_type!r} is not supported; supported: {', '.join(FAMILIES)} "
            "(CONTRIBUTING.md shows how to add a family)"
        )
    return FAMILIES[model_type]


__all__ = ["FAMILIES", "Family", "TowerCall", "UnsupportedModelError", "family_of"]
