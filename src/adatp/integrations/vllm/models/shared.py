"""Base of families whose tokens keep the positions that they have in the unpruned video."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor
from vllm.multimodal.utils import copy_mm_embedding_modality

from adatp.integrations.vllm.choosing import VideoPruning
from adatp.integrations.vllm.configuration import refuse_what_loses_positions
from adatp.integrations.vllm.numbering import number_whole
from adatp.integrations.vllm.positions import Offsets


class KeepsPositions:
    """Mixed in before a model of vLLM with M-RoPE. Without settings, vLLM's own model does everything.

    A family adds three methods: its embeddings' width, the tokens of an unpruned video, and `prune`.
    """

    pruning: VideoPruning | None

    def prune_by(self, vllm_config: Any) -> None:
        """Read the settings, at the end of ``__init__``."""
        embed = self.language_model.embed_input_ids  # type: ignore[attr-defined]
        self.pruning = VideoPruning.of(vllm_config, embed)
        if self.pruning is None:
            return
        refuse_what_loses_positions(vllm_config)
        self.offsets = Offsets()
        # vLLM's runner must not know: it would go through every prompt's positions, waiting for the GPU.
        self.supports_multimodal_pruning = False
        # With several videos, the runner counts the tokens left. So the tower encodes one at a time.
        self.requires_sequential_video_encoding = True

    def embed_multimodal(self, **kwargs: Any) -> Any:
        """Embeddings of media, with those of videos pruned and their offsets appended."""
        if self.pruning is None:
            return super().embed_multimodal(**kwargs)  # type: ignore[misc]
        with self.pruning.asked(kwargs):
            return super().embed_multimodal(**kwargs)  # type: ignore[misc]

    def _process_video_input(self, video_input: Any) -> Sequence[Tensor]:
        encode = super()._process_video_input  # type: ignore[misc]
        if self.pruning is None:
            return encode(video_input)  # type: ignore[no-any-return]
        return self.pruning.whole(lambda: encode(video_input))

    def _postprocess_image_embeds_evs(self, image_embeds_split: Any, image_input: Any) -> Any:
        """Images have their final positions from the beginning."""
        if self.pruning is None:
            return super()._postprocess_image_embeds_evs(image_embeds_split, image_input)  # type: ignore[misc]
        return image_embeds_split

    def _postprocess_video_embeds_evs(self, video_embeds_split: Any, video_input: Any) -> Any:
        if self.pruning is None:
            return super()._postprocess_video_embeds_evs(video_embeds_split, video_input)  # type: ignore[misc]
        return self.prune(video_embeds_split, video_input)  # type: ignore[attr-defined]

    def number_unpruned(self, tokens: list[int], features: list[Any]) -> tuple[Tensor, int]:
        """vLLM's own positions of a prompt whose videos are unpruned."""
        return super().get_mrope_input_positions(tokens, features)  # type: ignore[misc, no-any-return]

    def get_mrope_input_positions(
        self, input_tokens: list[int], mm_features: list[Any]
    ) -> tuple[Tensor, int]:
        """Positions of a prompt's tokens, and the number to add for later ones."""
        if self.pruning is None:
            return self.number_unpruned(input_tokens, mm_features)
        whole = self.whole_video  # type: ignore[attr-defined]
        return number_whole(self.number_unpruned, input_tokens, mm_features, whole)

    def embed_input_ids(
        self, input_ids: Tensor, multimodal_embeddings: Any = None, *, is_multimodal: Tensor | None = None
    ) -> Tensor:
        """Input embeddings of a batch's tokens, media among them."""
        if self.pruning is not None:
            width = self.embedding_width  # type: ignore[attr-defined]
            alone = self.offsets.take(multimodal_embeddings, is_multimodal, width)
            if alone is not None:
                pairs = zip(multimodal_embeddings, alone, strict=True)
                alone = [copy_mm_embedding_modality(given, rows) for given, rows in pairs]
            multimodal_embeddings = alone
        return super().embed_input_ids(  # type: ignore[misc, no-any-return]
            input_ids, multimodal_embeddings, is_multimodal=is_multimodal
        )

    def forward(self, input_ids: Tensor | None, positions: Tensor, *args: Any, **kwargs: Any) -> Any:
        """Read the tokens of a batch."""
        if self.pruning is not None:
            self.offsets.add_to(positions)
        return super().forward(input_ids, positions, *args, **kwargs)  # type: ignore[misc]
