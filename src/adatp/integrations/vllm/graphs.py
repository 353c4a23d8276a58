"""Lets vLLM run the vision tower of a pruned model as captured graphs. With its own pruning it can't.

A graph ends where the tower ends. vLLM then hands the embeddings to the model, which prunes videos there.
Their fields besides pixels have to travel with them until then.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

_KEPT = ("second_per_grid_ts", "timestamps")
"""Fields of videos that pruning reads and graphs don't."""


class EncoderGraphs:
    """Mixed in before a model of vLLM whose tower can be captured. Without settings, vLLM does everything.

    By question, videos are not captured: vLLM would run the tower for each question about a video, where the
    plugin runs it once.
    """

    pruning: Any

    def get_encoder_cudagraph_config(self) -> Any:
        """What vLLM captures: images always, videos unless the question decides."""
        config = super().get_encoder_cudagraph_config()  # type: ignore[misc]
        if self.pruning is None:
            return config
        if self.pruning.settings.question or self._shared_by_several_gpus():
            return replace(config, modalities=["image"])
        frames = self.get_max_frames_per_video()  # type: ignore[attr-defined]
        return replace(config, modalities=["image", "video"], max_frames_per_video=frames)

    def _shared_by_several_gpus(self) -> bool:
        """Whether each GPU encodes other videos. vLLM then gathers unpruned embeddings after the graphs."""
        return bool(self.use_data_parallel)  # type: ignore[attr-defined]

    def select_encoder_cudagraph_items(self, mm_kwargs: dict[str, Any], indices: list[int]) -> dict[str, Any]:
        """Some media of a batch, with what pruning reads of them."""
        selected: dict[str, Any] = super().select_encoder_cudagraph_items(mm_kwargs, indices)  # type: ignore[misc]
        if self.pruning is not None:
            for name in _KEPT:
                given = mm_kwargs.get(name)
                if isinstance(given, Tensor):
                    selected[name] = given[indices]
                elif given is not None:
                    selected[name] = [given[index] for index in indices]
        return selected

    def postprocess_encoder_output(
        self,
        outputs: dict[str, Tensor],
        indices: list[int],
        per_item_out_tokens: list[int],
        dest: Any,
        clone: bool = False,
        batch_mm_kwargs: dict[str, Any] | None = None,
    ) -> None:
        """Put the embeddings of each medium where vLLM wants them, those of videos pruned."""
        super().postprocess_encoder_output(  # type: ignore[misc]
            outputs, indices, per_item_out_tokens, dest, clone, batch_mm_kwargs
        )
        if self.pruning is None or batch_mm_kwargs is None or "video_grid_thw" not in batch_mm_kwargs:
            return
        grids = torch.tensor(batch_mm_kwargs["video_grid_thw"])
        given = self._parse_and_validate_video_input(**{**batch_mm_kwargs, "video_grid_thw": grids})  # type: ignore[attr-defined]
        videos: Sequence[Tensor] = [dest[index] for index in indices]
        for index, rows in zip(indices, self.prune(videos, given), strict=True):  # type: ignore[attr-defined]
            dest[index] = rows
