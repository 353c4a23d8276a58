"""InternVL in transformers' format: frames are images with words between; what is left is numbered anew.

How many tokens of each frame stay is known only after the tower has run. So all that stands for a video in a
prompt are placeholders, and the words between its frames come as embeddings with it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from typing_extensions import override
from vllm.model_executor.models import interns1 as base
from vllm.multimodal import MULTIMODAL_REGISTRY
from vllm.multimodal.inputs import MultiModalFieldConfig

from adatp.integrations.vllm.choosing import VideoPruning, put_text_between
from adatp.integrations.vllm.processing import PrunedVideos

_WHOLE = "adatp_whole"
"""Field of a video: its tokens in the prompt if it is not pruned."""


class Processor(PrunedVideos, base.InternS1MultiModalProcessor):
    """One placeholder per token that stays, and per token of the words between the frames."""

    @override
    def placeholder(self, kind: str) -> int:
        # The config lacks the placeholder of videos.
        processor = self.info.get_hf_processor()
        name = processor.video_token if kind == "video" else processor.image_token
        return int(processor.tokenizer.convert_tokens_to_ids(name))

    def _whole_video(self, frames: int) -> list[int]:
        """The tokens of an unpruned video in the prompt."""
        processor = self.info.get_hf_processor()
        shown = processor.video_token * processor.image_seq_length
        shown = f"{processor.start_image_token}{shown}{processor.end_image_token}"
        text = "\n".join(f"Frame{number + 1}: {shown}" for number in range(frames))
        return list(self.info.get_tokenizer().encode(text, add_special_tokens=False))

    def _apply_hf_processor_main(self, mm_items: Any, hf_kwargs: Mapping[str, object]) -> Any:
        processed = super()._apply_hf_processor_main(mm_items, hf_kwargs)
        if self.adatp is not None and "video_num_patches" in processed:
            frames = processed["video_num_patches"].tolist()
            processed[_WHOLE] = [torch.tensor(self._whole_video(count)) for count in frames]
        return processed

    def _get_mm_fields_config(self, hf_inputs: Any, hf_processor_mm_kwargs: Any) -> Any:
        fields = super()._get_mm_fields_config(hf_inputs, hf_processor_mm_kwargs)
        if _WHOLE in hf_inputs:
            fields[_WHOLE] = MultiModalFieldConfig.batched("video", keep_on_cpu=True)
        return fields

    @override
    def video_length(self, number: int, mm_items: Any, mm_kwargs: Any) -> int:
        return self.left_of(mm_kwargs["video"][number][_WHOLE].data.tolist())


@MULTIMODAL_REGISTRY.register_processor(
    Processor, info=base.InternS1ProcessingInfo, dummy_inputs=base.InternS1DummyInputsBuilder
)
class InternVLForConditionalGeneration(base.InternS1ForConditionalGeneration):
    """vLLM's class, which can't prune videos itself. With settings of the plugin, it does."""

    def __init__(self, *, vllm_config: Any, prefix: str = "") -> None:
        super().__init__(vllm_config=vllm_config, prefix=prefix)
        self.pruning = VideoPruning.of(vllm_config, self.language_model.embed_input_ids)
        self._whole: list[Tensor] = []
        if self.pruning is not None:
            # With several videos, the runner counts the tokens left. So the tower encodes one at a time.
            self.requires_sequential_video_encoding = True

    def embed_multimodal(self, **kwargs: Any) -> Any:
        """Embeddings of media, with those of videos pruned."""
        if self.pruning is None:
            return super().embed_multimodal(**kwargs)
        self._whole = list(kwargs.pop(_WHOLE, ()))
        with self.pruning.asked(kwargs):
            return super().embed_multimodal(**kwargs)

    def _process_vision_input(self, image_input: Any) -> Sequence[Tensor]:
        encode = super()._process_vision_input
        if self.pruning is None or image_input["type"] != "pixel_values_videos":
            return encode(image_input)  # type: ignore[no-any-return]
        videos = self.pruning.whole(lambda: encode(image_input))
        frames = image_input["num_patches"]
        return tuple(self._prune(number, rows, int(frames[number])) for number, rows in enumerate(videos))

    def _prune(self, number: int, rows: Tensor, frames: int) -> Tensor:
        """The tokens that stay of a video, and the text between its frames."""
        assert self.pruning is not None
        whole = self._whole[number]
        shows = whole == self.video_context_token_id
        text, shown = (~shows).nonzero().squeeze(1), shows.nonzero().squeeze(1)
        text, shown, whole = (each.to(rows.device, non_blocking=True) for each in (text, shown, whole))
        kept = self.pruning.choose(number, rows, frames)
        return put_text_between(self.pruning.embed(whole[text]), rows[kept], text, shown[kept])[0]
