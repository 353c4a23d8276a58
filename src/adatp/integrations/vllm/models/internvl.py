"""InternVL in transformers' format: frames are images with words between; what is left is numbered anew.

How many tokens of each frame stay is known only after the tower has run. So all that stands for a video in a
prompt are placeholders, and the words between its frames come as embeddings with it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from vllm.model_executor.models import interns1 as base
from vllm.multimodal import MULTIMODAL_REGISTRY
from vllm.multimodal.inputs import MultiModalFieldConfig

from adatp.integrations.vllm.choosing import VideoPruning, put_text_between
from adatp.integrations.vllm.processing import PrunedVideos

_UNPRUNED = "adatp_unpruned"
"""Field of a video: the tokens that stand for it if nothing of it is dropped."""


class Processor(PrunedVideos, base.InternS1MultiModalProcessor):
    """As many placeholders as tokens stay and words between the frames have."""

    def placeholder(self, kind: str) -> int:
        """The config does not know the one of videos."""
        processor = self.info.get_hf_processor()
        name = processor.video_token if kind == "video" else processor.image_token
        return int(processor.tokenizer.convert_tokens_to_ids(name))

    def _unpruned_video(self, frames: int) -> list[int]:
        """The tokens that stand for a video if nothing of it is dropped."""
        processor = self.info.get_hf_processor()
        shown = processor.video_token * processor.image_seq_length
        shown = f"{processor.start_image_token}{shown}{processor.end_image_token}"
        text = "\n".join(f"Frame{number + 1}: {shown}" for number in range(frames))
        return list(self.info.get_tokenizer().encode(text, add_special_tokens=False))

    def _apply_hf_processor_main(self, mm_items: Any, hf_kwargs: Mapping[str, object]) -> Any:
        processed = super()._apply_hf_processor_main(mm_items, hf_kwargs)
        if self.adatp is not None and "video_num_patches" in processed:
            frames = processed["video_num_patches"].tolist()
            processed[_UNPRUNED] = [torch.tensor(self._unpruned_video(count)) for count in frames]
        return processed

    def _get_mm_fields_config(self, hf_inputs: Any, hf_processor_mm_kwargs: Any) -> Any:
        fields = super()._get_mm_fields_config(hf_inputs, hf_processor_mm_kwargs)
        if _UNPRUNED in hf_inputs:
            fields[_UNPRUNED] = MultiModalFieldConfig.batched("video", keep_on_cpu=True)
        return fields

    def _get_prompt_updates(self, mm_items: Any, hf_processor_mm_kwargs: Any, out_mm_kwargs: Any) -> Any:
        updates = super()._get_prompt_updates(mm_items, hf_processor_mm_kwargs, out_mm_kwargs)
        if self.adatp is None:
            return updates
        token = self.placeholder("video")

        def length(number: int) -> int:
            unpruned = out_mm_kwargs["video"][number][_UNPRUNED].data
            visual = int((unpruned == token).sum())
            return len(unpruned) - visual + self.kept(visual)

        return self.with_videos_of(updates, length, token)


@MULTIMODAL_REGISTRY.register_processor(
    Processor, info=base.InternS1ProcessingInfo, dummy_inputs=base.InternS1DummyInputsBuilder
)
class InternVLForConditionalGeneration(base.InternS1ForConditionalGeneration):
    """vLLM's class, whose videos can't be pruned; with settings of the plugin they are."""

    def __init__(self, *, vllm_config: Any, prefix: str = "") -> None:
        super().__init__(vllm_config=vllm_config, prefix=prefix)
        self.pruning = VideoPruning.of(vllm_config, self.language_model.embed_input_ids)
        self._unpruned: list[Tensor] = []
        if self.pruning is not None:
            # Of several videos the runner counts what is left; so the tower encodes one at a time.
            self.requires_sequential_video_encoding = True

    def embed_multimodal(self, **kwargs: Any) -> Any:
        """Embeddings of media; those of videos pruned."""
        if self.pruning is None:
            return super().embed_multimodal(**kwargs)
        self._unpruned = list(kwargs.pop(_UNPRUNED, ()))
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
        """What stays of a video and the text between its frames."""
        assert self.pruning is not None
        unpruned = self._unpruned[number]
        shows = unpruned == self.video_context_token_id
        text, shown = (~shows).nonzero().squeeze(1), shows.nonzero().squeeze(1)
        text, shown, unpruned = (each.to(rows.device, non_blocking=True) for each in (text, shown, unpruned))
        kept = self.pruning.choose(number, rows, frames)
        return put_text_between(self.pruning.embed(unpruned[text]), rows[kept], text, shown[kept])[0]
