"""LLaVA-OneVision: one run of placeholders and a newline per video. vLLM renumbers the tokens left."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from typing_extensions import override
from vllm.model_executor.models import llava_onevision as base
from vllm.multimodal import MULTIMODAL_REGISTRY

from adatp.integrations.vllm.choosing import VideoPruning
from adatp.integrations.vllm.processing import PrunedVideos


class Processor(PrunedVideos, base.LlavaOnevisionMultiModalProcessor):
    """One placeholder per token that stays, and one for the newline."""

    @override
    def video_length(self, number: int, mm_items: Any, mm_kwargs: Any) -> int:
        videos = mm_items["video"]
        size = videos.get_frame_size(number)
        whole = self.info.get_num_video_tokens(
            image_width=size.width, image_height=size.height, num_frames=videos.get_num_frames(number)
        )
        return self.kept(whole - 1) + 1


@MULTIMODAL_REGISTRY.register_processor(
    Processor, info=base.LlavaOnevisionProcessingInfo, dummy_inputs=base.LlavaOnevisionDummyInputsBuilder
)
class LlavaOnevisionForConditionalGeneration(base.LlavaOnevisionForConditionalGeneration):
    """vLLM's class, which can't prune videos itself. With settings of the plugin, it does."""

    def __init__(self, *, vllm_config: Any, prefix: str = "") -> None:
        super().__init__(vllm_config=vllm_config, prefix=prefix)
        self.pruning = VideoPruning.of(vllm_config, self.language_model.embed_input_ids)
        if self.pruning is not None:
            # With several videos, the runner counts the tokens left. So the tower encodes one at a time.
            self.requires_sequential_video_encoding = True

    def embed_multimodal(self, **kwargs: Any) -> Any:
        """Embeddings of media, with those of videos pruned."""
        if self.pruning is None:
            return super().embed_multimodal(**kwargs)
        with self.pruning.asked(kwargs):
            return super().embed_multimodal(**kwargs)

    def _process_video_pixels(self, inputs: Any) -> Sequence[Tensor]:
        encode = super()._process_video_pixels
        if self.pruning is None:
            return encode(inputs)  # type: ignore[no-any-return]
        frames = [len(video) for video in inputs["pixel_values_videos"]]
        # Each (tokens + 1, d), the newline last.
        videos = self.pruning.whole(lambda: [video.flatten(0, -2) for video in encode(inputs)])
        out = []
        for number, rows in enumerate(videos):
            kept = self.pruning.choose(number, rows[:-1], frames[number])
            out.append(torch.cat([rows[kept], rows[-1:]]))
        return out
