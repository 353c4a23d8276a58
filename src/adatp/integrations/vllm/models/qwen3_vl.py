"""Qwen3-VL: a timestamp and a run of placeholders per temporal step, DeepStack. Tokens keep their positions.

The number of tokens that stay of each step is only known after the tower has run. So a video's part of the
prompt has only placeholders, and the timestamps between its steps come as embeddings with it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from typing_extensions import override
from vllm.model_executor.models import qwen3_vl as base
from vllm.multimodal import MULTIMODAL_REGISTRY

from adatp.integrations.vllm.choosing import put_text_between
from adatp.integrations.vllm.graphs import EncoderGraphs
from adatp.integrations.vllm.models.shared import KeepsPositions
from adatp.integrations.vllm.numbering import offsets_of
from adatp.integrations.vllm.positions import attach
from adatp.integrations.vllm.processing import PrunedVideos


def whole_video(config: Any, tokenizer: Any, grid: Tensor, timestamps: Any) -> list[int]:
    """The tokens of an unpruned video in the prompt.

    Args:
        config: config of the model.
        tokenizer: for the timestamps.
        grid: (3,) temporal steps, rows and columns of patches.
        timestamps: seconds, one per step.
    """
    steps, rows, columns = (int(size) for size in grid)
    tokens = rows * columns // config.vision_config.spatial_merge_size**2
    update = base.Qwen3VLMultiModalProcessor.get_video_repl(
        tokens_per_frame=[tokens] * steps,
        timestamps=timestamps,
        tokenizer=tokenizer,
        vision_start_token_id=config.vision_start_token_id,
        vision_end_token_id=config.vision_end_token_id,
        video_token_id=config.video_token_id,
    )
    return list(update.full)


class Processor(PrunedVideos, base.Qwen3VLMultiModalProcessor):
    """One placeholder per token that stays, and per token of the timestamps."""

    @override
    def video_length(self, number: int, mm_items: Any, mm_kwargs: Any) -> int:
        video = mm_kwargs["video"][number]
        grid, timestamps = video["video_grid_thw"].data, video["timestamps"].data
        return self.left_of(
            whole_video(self.info.get_hf_config(), self.info.get_tokenizer(), grid, timestamps)
        )


class PrunedQwen3VL(EncoderGraphs, KeepsPositions):
    """Mixed in before Qwen3-VL and classes derived from it."""

    def __init__(self, *, vllm_config: Any, prefix: str = "model") -> None:
        super().__init__(vllm_config=vllm_config, prefix=prefix)  # type: ignore[call-arg]
        self.prune_by(vllm_config)

    @property
    def embedding_width(self) -> int:
        """Columns of a medium's embeddings, with DeepStack's, without the appended offsets."""
        width: int = self.visual_dim + self.multiscale_dim  # type: ignore[attr-defined]
        return width

    def whole_video(self, feature: Any) -> list[int]:
        """The tokens of an unpruned video in the prompt."""
        grid, timestamps = feature.data["video_grid_thw"].data, feature.data["timestamps"].data
        return whole_video(self.config, self._tokenizer, grid, timestamps)  # type: ignore[attr-defined]

    def prune(self, videos: Sequence[Tensor], video_input: Any) -> tuple[Tensor, ...]:
        """The tokens that stay of each video and the text between its steps, with offsets appended."""
        grids = [grid.cpu() for grid in video_input["video_grid_thw"]]
        return tuple(
            self._prune(number, rows, grids[number], video_input.timestamps[number])
            for number, rows in enumerate(videos)
        )

    def _prune(self, number: int, rows: Tensor, grid: Tensor, timestamps: Any) -> Tensor:
        assert self.pruning is not None
        whole = whole_video(self.config, self._tokenizer, grid, timestamps)  # type: ignore[attr-defined]
        ids = torch.tensor(whole)
        shows = ids == self.config.video_token_id  # type: ignore[attr-defined]
        text, shown = ((~shows).nonzero().squeeze(1), shows.nonzero().squeeze(1))
        offsets = offsets_of(self.number_unpruned, whole, video_grid_thw=grid)

        device = rows.device
        text, shown, ids, offsets = (
            each.to(device, non_blocking=True) for each in (text, shown, ids, offsets)
        )
        words = self.pruning.embed(ids[text])
        kept = self.pruning.choose(number, rows[:, : words.shape[1]], int(grid[0]))
        # DeepStack adds nothing to text.
        left, places = put_text_between(words, rows[kept], text, shown[kept])
        return attach(left, offsets[places])


@MULTIMODAL_REGISTRY.register_processor(
    Processor, info=base.Qwen3VLProcessingInfo, dummy_inputs=base.Qwen3VLDummyInputsBuilder
)
class Qwen3VLForConditionalGeneration(PrunedQwen3VL, base.Qwen3VLForConditionalGeneration):
    """vLLM's class. With settings of the plugin, other tokens of a video stay."""
