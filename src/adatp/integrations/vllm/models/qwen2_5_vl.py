"""Qwen2.5-VL: one run of placeholders per video. Tokens keep their positions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor
from typing_extensions import override
from vllm.model_executor.models import qwen2_5_vl as base
from vllm.multimodal import MULTIMODAL_REGISTRY

from adatp.integrations.vllm.graphs import EncoderGraphs
from adatp.integrations.vllm.models.shared import KeepsPositions
from adatp.integrations.vllm.numbering import offsets_of
from adatp.integrations.vllm.positions import attach
from adatp.integrations.vllm.processing import PrunedVideos


def whole_video(config: Any, video: Mapping[str, Any]) -> list[int]:
    """The tokens of an unpruned video in the prompt.

    Args:
        config: config of the model.
        video: fields of the video from vLLM's processor.
    """
    merged = config.vision_config.spatial_merge_size**2
    return [config.video_token_id] * (int(video["video_grid_thw"].data.prod()) // merged)


class Processor(PrunedVideos, base.Qwen2_5_VLMultiModalProcessor):
    """One placeholder per token that stays."""

    @override
    def video_length(self, number: int, mm_items: Any, mm_kwargs: Any) -> int:
        return self.left_of(whole_video(self.info.get_hf_config(), mm_kwargs["video"][number]))


@MULTIMODAL_REGISTRY.register_processor(
    Processor, info=base.Qwen2_5_VLProcessingInfo, dummy_inputs=base.Qwen2_5_VLDummyInputsBuilder
)
class Qwen2_5_VLForConditionalGeneration(  # noqa: N801
    EncoderGraphs, KeepsPositions, base.Qwen2_5_VLForConditionalGeneration
):
    """vLLM's class. With settings of the plugin, other tokens of a video stay."""

    def __init__(self, *, vllm_config: Any, prefix: str = "") -> None:
        super().__init__(vllm_config=vllm_config, prefix=prefix)
        self.prune_by(vllm_config)

    @property
    def embedding_width(self) -> int:
        """Columns of a medium's embeddings, without the appended offsets."""
        width: int = self.config.text_config.hidden_size
        return width

    def whole_video(self, feature: Any) -> list[int]:
        """The tokens of an unpruned video in the prompt."""
        return whole_video(self.config, feature.data)

    def prune(self, videos: Sequence[Tensor], video_input: Any) -> tuple[Tensor, ...]:
        """The tokens that stay of each video, with their offsets appended."""
        assert self.pruning is not None
        seconds, out = video_input.get("second_per_grid_ts"), []
        for number, rows in enumerate(videos):
            grid = video_input["video_grid_thw"][number].cpu()
            fields = {} if seconds is None else {"second_per_grid_ts": seconds[number]}
            tokens = [self.config.video_token_id] * len(rows)
            offsets = offsets_of(self.number_unpruned, tokens, video_grid_thw=grid, **fields)
            kept = self.pruning.choose(number, rows, int(grid[0]))
            out.append(attach(rows[kept], offsets.to(rows.device, non_blocking=True)[kept]))
        return tuple(out)
