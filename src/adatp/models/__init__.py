"""Model families: what is peculiar to each, one small file a family, found by ``config.model_type``."""

from __future__ import annotations

from adatp.errors import AdaTPError
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
"""By ``model_type``; one more makes the library know it."""

CHECKPOINTS = {
    "llava_onevision": "llava-hf/llava-onevision-qwen2-7b-ov-hf",
    "llava_next_video": "llava-hf/LLaVA-NeXT-Video-7B-hf",
    "video_llava": "LanguageBind/Video-LLaVA-7B-hf",
    "qwen2_vl": "Qwen/Qwen2-VL-7B-Instruct",
    "qwen2_5_vl": "Qwen/Qwen2.5-VL-7B-Instruct",
    "qwen3_vl": "Qwen/Qwen3-VL-8B-Instruct",
    "qwen3_vl_moe": "Qwen/Qwen3-VL-30B-A3B-Instruct",
    "qwen3_5": "Qwen/Qwen3.5-27B",
    "qwen3_5_moe": "Qwen/Qwen3.5-35B-A3B",
    "internvl": "OpenGVLab/InternVL3-1B-hf",
    "smolvlm": "HuggingFaceTB/SmolVLM2-2.2B-Instruct",
    "gemma3": "google/gemma-3-4b-it",
    "glm4v": "zai-org/GLM-4.1V-9B-Thinking",
    "glm46v": "zai-org/GLM-4.6V-Flash",
    "video_llama_3": "lkhl/VideoLLaMA3-2B-Image-HF",
}
"""One of each on the Hugging Face hub, as transformers' own documentation names them."""


class UnsupportedModelError(AdaTPError, ValueError):
    """No family file knows this model."""


def family_of(model_type: str) -> Family:
    """The family of the models whose config has this ``model_type``.

    Raises:
        UnsupportedModelError: it is not in the registry.
    """
    if model_type not in FAMILIES:
        raise UnsupportedModelError(
            f"model type {model_type!r} is not supported; supported: {', '.join(FAMILIES)} "
            "(`adatp models` tells more, CONTRIBUTING.md how to add one)"
        )
    return FAMILIES[model_type]


__all__ = ["CHECKPOINTS", "FAMILIES", "Family", "TowerCall", "UnsupportedModelError", "family_of"]
