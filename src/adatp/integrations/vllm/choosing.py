"""Chooses which tokens of a video stay, and caches the embeddings of unpruned videos, for all models."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from adatp.adatp_steps.before_layers import choose_before_layers, kept_tokens
from adatp.adatp_steps.relevance import embedding_relevance
from adatp.adatp_steps.shielding import shielded
from adatp.integrations.vllm.embeddings import EmbeddingCache
from adatp.integrations.vllm.settings import MEDIUM, QUESTION, Settings, settings_of


class VideoPruning:
    """The pruning of one model.

    Args:
        settings: of the plugin.
        rate: share of a video's tokens that is dropped.
        embed: the language model's input embeddings (q, d) of token ids (q,).
    """

    def __init__(self, settings: Settings, rate: float, embed: Callable[[Tensor], Tensor]) -> None:
        self.settings, self.rate, self.embed = settings, rate, embed
        self.cache = EmbeddingCache(settings.cache_mib << 20)
        self._words: list[Tensor] = []
        self._media: list[bytes] = []

    @classmethod
    def of(cls, vllm_config: Any, embed: Callable[[Tensor], Tensor]) -> VideoPruning | None:
        """For the model of a config; None if the plugin has no settings there."""
        settings = settings_of(vllm_config.model_config)
        if settings is None:
            return None
        return cls(settings, vllm_config.model_config.multimodal_config.video_pruning_rate, embed)

    @contextmanager
    def asked(self, inputs: dict[str, Any]) -> Iterator[None]:
        """Take the plugin's own fields out of a model's input, and use them during the block."""
        self._words = [words[words >= 0] for words in inputs.pop(QUESTION, ())]
        self._media = [bytes(medium.tolist()) for medium in inputs.pop(MEDIUM, ())]
        try:
            yield
        finally:
            self._words, self._media = [], []

    def whole(self, encode: Callable[[], Sequence[Tensor]]) -> Sequence[Tensor]:
        """Embeddings of the block's unpruned videos, (n, d) each. The tower only runs if one of them is
        not cached.
        """
        remembered = [self.cache.get(medium) for medium in self._media]
        found = [each for each in remembered if each is not None]
        if found and len(found) == len(remembered):
            return found
        videos = encode()
        for medium, video in zip(self._media, videos, strict=False):
            self.cache.put(medium, video)
        return videos

    def choose(self, number: int, tokens: Tensor, frames: int) -> Tensor:
        """(k,) int64 ascending: the tokens of the block's video ``number`` that stay.

        Args:
            number: index among the block's videos.
            tokens: (n, d) all of its embeddings, frame by frame.
            frames: T; all have the same number of tokens.
        """
        with shielded(tokens.device):
            return choose_before_layers(
                tokens.view(frames, -1, tokens.shape[1]),
                kept_tokens(len(tokens), 1 - self.rate),
                self.settings.thresholds,
                self._relevance(number, tokens, frames),
            )

    def _relevance(self, number: int, tokens: Tensor, frames: int) -> Tensor | None:
        if not self._words or not len(self._words[number]):
            return None
        words = self.embed(self._words[number].to(tokens.device, non_blocking=True))
        frame = torch.arange(frames, device=tokens.device).repeat_interleave(len(tokens) // frames)
        return embedding_relevance(words, tokens, frame, frames)


def put_text_between(words: Tensor, rows: Tensor, text: Tensor, visual: Tensor) -> tuple[Tensor, Tensor]:
    """Combine the tokens left of a video and the text between its frames, in the order of the prompt.

    Args:
        words: (m, d) embeddings of the text.
        rows: (k, d or more) embeddings that stay of the video. Columns beyond ``d`` are zero for text.
        text: (m,) int64 places of the text in the unpruned video's tokens.
        visual: (k,) int64 places there of the rows.

    Returns:
        The embeddings (m + k, d or more) in their order, and the place (m + k,) of each.
    """
    words = torch.nn.functional.pad(words, (0, rows.shape[1] - words.shape[1]))
    places = torch.cat([text, visual])
    order = places.argsort()
    return torch.cat([words.to(rows.dtype), rows])[order], places[order]
