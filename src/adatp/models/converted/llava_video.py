"""The classes of a converted LLaVA-Video, as transformers' auto classes load them."""

from __future__ import annotations

import math
from typing import Any

import torch
import transformers
from torch import Tensor, nn
from transformers import (
    AutoConfig,
    AutoModelForImageTextToText,
    AutoProcessor,
    LlavaOnevisionConfig,
    LlavaOnevisionForConditionalGeneration,
    LlavaOnevisionProcessor,
)
from transformers.models.llava_onevision.modeling_llava_onevision import LlavaOnevisionModel

from adatp.errors import RefusedError

LEAST = (5, 18)
"""From this version of transformers on, LLaVA-OneVision itself ends a video's features; this is undone
here.
"""


class LlavaVideoConfig(LlavaOnevisionConfig):  # type: ignore[misc]
    """LLaVA-OneVision's config under LLaVA-Video's model type."""

    model_type = "llava_video"


class LlavaVideoModel(LlavaOnevisionModel):  # type: ignore[misc]
    """LLaVA-OneVision with a newline after every row."""

    config_class = LlavaVideoConfig

    def get_video_features(
        self,
        pixel_values_videos: Tensor,
        vision_feature_layer: int | list[int] | None = None,
        vision_feature_select_strategy: str | None = None,
        **kwargs: Any,
    ) -> Any:
        """Encode videos, with a newline after each row of each frame.

        Args:
            pixel_values_videos: (videos, frames, channels, height, width).
            vision_feature_layer: see LLaVA-OneVision.
            vision_feature_select_strategy: see LLaVA-OneVision.
            kwargs: further arguments of the vision tower.

        Returns:
            The tower's output; its ``pooler_output`` is (videos, frames * rows * (columns + 1), d).
        """
        kwargs["return_dict"] = True
        outputs = super().get_video_features(
            pixel_values_videos,
            vision_feature_layer=vision_feature_layer,
            vision_feature_select_strategy=vision_feature_select_strategy,
            **kwargs,
        )
        frames = pixel_values_videos.shape[1]
        outputs.pooler_output = with_newlines(outputs.pooler_output[:, :-1], frames, self.image_newline)
        return outputs


class LlavaVideoForConditionalGeneration(LlavaOnevisionForConditionalGeneration):  # type: ignore[misc]
    """LLaVA-Video with a head that generates text."""

    config_class = LlavaVideoConfig

    def __init__(self, config: LlavaVideoConfig) -> None:
        super(LlavaOnevisionForConditionalGeneration, self).__init__(config)
        self.model = LlavaVideoModel(config)
        self.lm_head = nn.Linear(config.text_config.hidden_size, config.text_config.vocab_size, bias=False)
        self.post_init()


class LlavaVideoProcessor(LlavaOnevisionProcessor):  # type: ignore[misc]
    """LLaVA-OneVision's processor, with a newline counted for every row of a frame."""

    def replace_video_token(self, video_inputs: dict[str, Any], video_idx: int, **kwargs: Any) -> str:
        """The placeholders of one video."""
        return str(self.video_token) * self._tokens(len(video_inputs["pixel_values_videos"][video_idx]))

    def _get_num_multimodal_tokens(
        self, image_sizes: Any = None, video_sizes: Any = None, **kwargs: Any
    ) -> Any:
        data = super()._get_num_multimodal_tokens(image_sizes, video_sizes, **kwargs)
        if video_sizes is not None:
            data["num_video_tokens"] = [self._tokens(frames) for frames, _, _ in video_sizes]
        return data

    def _tokens(self, frames: int) -> int:
        side = math.ceil(math.isqrt(self.num_image_tokens) / 2)
        return frames * side * (side + 1)


def with_newlines(tokens: Tensor, frames: int, newline: Tensor) -> Tensor:
    """Put a newline after each row of each frame.

    Args:
        tokens: (videos, frames * side * side, d).
        frames: number of frames of each video.
        newline: (d,) embedding of the newline.

    Returns:
        (videos, frames * side * (side + 1), d).
    """
    videos, count, d = tokens.shape
    side = math.isqrt(count // frames)
    rows = tokens.view(videos, frames * side, side, d)
    end = newline.to(tokens).expand(videos, frames * side, 1, d)
    return torch.cat([rows, end], 2).flatten(1, 2)


def register_with_transformers() -> None:
    """Let the auto classes load converted checkpoints.

    Raises:
        RefusedError: this transformers is too old.
    """
    if tuple(map(int, transformers.__version__.split(".")[:2])) < LEAST:
        least = ".".join(map(str, LEAST))
        raise RefusedError(f"LLaVA-Video needs transformers {least}, this is {transformers.__version__}")
    AutoConfig.register(LlavaVideoConfig.model_type, LlavaVideoConfig, exist_ok=True)
    AutoModelForImageTextToText.register(LlavaVideoConfig, LlavaVideoForConditionalGeneration, exist_ok=True)
    AutoProcessor.register(LlavaVideoConfig, LlavaVideoProcessor, exist_ok=True)
