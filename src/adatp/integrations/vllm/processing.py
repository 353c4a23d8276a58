"""Changes to vLLM's processors: the number of a video's placeholders, and the question in its hash."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from dataclasses import replace
from hashlib import blake2b
from typing import Any

import torch
from vllm.multimodal.inputs import MultiModalFieldConfig

from adatp.adatp_steps.before_layers import kept_tokens
from adatp.integrations.vllm.asking import question_words
from adatp.integrations.vllm.settings import MEDIUM, QUESTION, Settings, settings_of


class PrunedVideos:
    """Mixed in before a processor of vLLM. Without settings, vLLM's own processor does everything."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._request = threading.local()  # vLLM may process requests in several threads

    @property
    def adatp(self) -> Settings | None:
        """The plugin's settings, if it has any."""
        return settings_of(self.info.ctx.model_config)  # type: ignore[attr-defined]

    def kept(self, tokens: int) -> int:
        """Number of tokens of a video that stay."""
        return kept_tokens(tokens, 1 - self.info.ctx.get_mm_config().video_pruning_rate)  # type: ignore[attr-defined]

    def left_of(self, whole: Sequence[int]) -> int:
        """Number of tokens that stay of an unpruned video's part of a prompt, with text between frames."""
        visual = whole.count(self.placeholder("video"))
        return len(whole) - visual + self.kept(visual)

    def video_length(self, number: int, mm_items: Any, mm_kwargs: Any) -> int:
        """Number of placeholders in the prompt for a pruned video. Each family has its own.

        Args:
            number: index of the video in the prompt.
            mm_items: media of the request.
            mm_kwargs: media as vLLM's processor prepared them.
        """
        raise NotImplementedError

    def _get_prompt_updates(self, mm_items: Any, hf_processor_mm_kwargs: Any, out_mm_kwargs: Any) -> Any:
        """vLLM's updates of a prompt, with fewer placeholders for each video."""
        updates = super()._get_prompt_updates(mm_items, hf_processor_mm_kwargs, out_mm_kwargs)  # type: ignore[misc]
        if self.adatp is None:
            return updates
        token = self.placeholder("video")

        def placeholders(number: int) -> list[int]:
            return [token] * self.video_length(number, mm_items, out_mm_kwargs)

        return [
            replace(update, replacement=placeholders) if update.modality == "video" else update
            for update in updates
        ]

    def placeholder(self, kind: str) -> int:
        """The token that stands for an "image" or a "video" in a prompt; some configs call it an index."""
        config = self.info.get_hf_config()  # type: ignore[attr-defined]
        token: int = getattr(config, f"{kind}_token_id", None) or getattr(config, f"{kind}_token_index")
        return token

    # The question of the request at hand, for what vLLM calls deeper down.

    def apply(self, inputs: Any, timing_ctx: Any) -> Any:
        """Process a request with its question."""
        if self.adatp is not None and self.adatp.question:
            self._request.words = tuple(
                question_words(
                    self.info.get_hf_processor(),  # type: ignore[attr-defined]
                    inputs.prompt,
                    self.placeholder("video"),
                    self.placeholder("image"),
                )
            )
        return super().apply(inputs, timing_ctx)  # type: ignore[misc]

    def _get_mm_hashes(self, inputs: Any) -> Any:
        """Hashes of the media. All that decides which tokens stay is part of a video's hash in vLLM's
        caches.
        """
        hashes = super()._get_mm_hashes(inputs)  # type: ignore[misc]
        if self.adatp is None or "video" not in hashes:
            return hashes
        rate = self.info.ctx.get_mm_config().video_pruning_rate  # type: ignore[attr-defined]
        suffix = self.adatp.digest(rate, getattr(self._request, "words", ()))
        self._request.media = list(hashes["video"])
        return {**hashes, "video": [f"{name}-{suffix}" for name in hashes["video"]]}

    def _apply_hf_processor(self, inputs: Any, timing_ctx: Any) -> Any:
        if self.adatp is not None:
            self._get_mm_hashes(inputs)  # vLLM asks for them later
        return super()._apply_hf_processor(inputs, timing_ctx)  # type: ignore[misc]

    def _get_cache_missing_items(self, *args: Any, **kwargs: Any) -> Any:
        """Of the media, process only those that vLLM has not processed before."""
        cached, missing = super()._get_cache_missing_items(*args, **kwargs)  # type: ignore[misc]
        if self.adatp is not None:
            known = cached.get("video", [])
            media = getattr(self._request, "media", [])
            self._request.media = [name for name, there in zip(media, known, strict=False) if not there]
        return cached, missing

    def _apply_hf_processor_main(self, mm_items: Any, hf_kwargs: Mapping[str, object]) -> Any:
        processed = super()._apply_hf_processor_main(mm_items, hf_kwargs)  # type: ignore[misc]
        videos = mm_items.get_count("video", strict=False)
        if self.adatp is not None and self.adatp.question and videos:
            words = torch.tensor(getattr(self._request, "words", ()) or (-1,))
            processed[QUESTION] = [words] * videos
            processed[MEDIUM] = [_name(medium) for medium in self._request.media[:videos]]
        return processed

    def _get_mm_fields_config(self, hf_inputs: Any, hf_processor_mm_kwargs: Any) -> Any:
        fields = dict(super()._get_mm_fields_config(hf_inputs, hf_processor_mm_kwargs))  # type: ignore[misc]
        for name in (QUESTION, MEDIUM):
            if name in hf_inputs:
                fields[name] = MultiModalFieldConfig.batched("video", keep_on_cpu=True)
        return fields


def _name(medium: str) -> torch.Tensor:
    """(16,) uint8 that represent a medium's hash."""
    return torch.tensor(list(blake2b(medium.encode(), digest_size=16).digest()), dtype=torch.uint8)
