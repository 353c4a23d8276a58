"""A Video LLM that comes with its own code, as published with a checkpoint: written to its folder by tests.

It follows no base class of a known family: its own forward, its own attribute names, a method that returns a
plain list. What it shares with others is what the general rule asks for.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from transformers import AutoModel, GenerationMixin, PreTrainedConfig, PreTrainedModel, Qwen2Config
from transformers.modeling_outputs import CausalLMOutputWithPast


class OwnVideoConfig(PreTrainedConfig):
    """Sizes of the language model, and the patch size."""

    model_type = "own_video_llm"
    sub_configs: ClassVar[dict[str, Any]] = {"text_config": Qwen2Config}

    def __init__(
        self,
        text_config: dict[str, Any] | None = None,
        patch_size: int = 4,
        image_token_id: int = 90,
        video_token_id: int = 91,
        **kwargs: Any,
    ) -> None:
        self.text_config = Qwen2Config(**(text_config or {}))
        self.patch_size, self.image_token_id, self.video_token_id = patch_size, image_token_id, video_token_id
        super().__init__(**kwargs)


class OwnVideoForCausalLM(PreTrainedModel, GenerationMixin):
    """Patches are projected, two by two of a temporal step become a token."""

    config_class = OwnVideoConfig
    _supports_sdpa = _supports_attention_backend = True

    def __init__(self, config: OwnVideoConfig) -> None:
        super().__init__(config)
        width = config.text_config.hidden_size
        self.see = nn.Linear(3 * 2 * config.patch_size**2, width)
        self.join = nn.Linear(4 * width, width)
        self.llm = AutoModel.from_config(config.text_config)
        self.lm_head = nn.Linear(width, config.text_config.vocab_size, bias=False)
        self.post_init()

    def get_decoder(self) -> Any:
        return self.llm

    def get_input_embeddings(self) -> Any:
        return self.llm.embed_tokens

    def get_video_features(self, pixel_values_videos: Tensor, video_grid_thw: Tensor) -> list[Tensor]:
        """The patches of a token lie next to each other."""
        patches = torch.relu(self.see(pixel_values_videos))
        tokens = self.join(patches.view(-1, 4 * patches.shape[1]))
        return list(tokens.split((video_grid_thw.prod(1) // 4).tolist()))

    def forward(
        self,
        input_ids: Tensor,
        pixel_values_videos: Tensor | None = None,
        video_grid_thw: Tensor | None = None,
        mm_token_type_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        past_key_values: Any = None,
        **kwargs: Any,
    ) -> CausalLMOutputWithPast:
        """Videos are read with the prompt alone."""
        embeds = self.llm.embed_tokens(input_ids)
        shown = (input_ids == self.config.video_token_id)[..., None]
        if pixel_values_videos is not None and bool(shown.any()):
            videos = torch.cat(self.get_video_features(pixel_values_videos, video_grid_thw))
            embeds = embeds.masked_scatter(shown, videos.to(embeds.dtype))
        out = self.llm(
            inputs_embeds=embeds,
            attention_mask=attention_mask,
            past_key_values=past_key_values,
            use_cache=True,
        )
        return CausalLMOutputWithPast(
            logits=self.lm_head(out.last_hidden_state), past_key_values=out.past_key_values
        )


def save_checkpoint(folder: Path) -> Path:
    """Random weights, a processor, and this module as the code that reads them, in a new folder."""
    from families import TEXT
    from processors import qwen2_vl

    torch.manual_seed(0)
    OwnVideoForCausalLM(OwnVideoConfig(text_config=dict(TEXT))).save_pretrained(folder)
    qwen2_vl().save_pretrained(folder)
    (folder / "own_code.py").write_text(Path(__file__).read_text())
    config: dict[str, Any] = json.loads((folder / "config.json").read_text())
    config["auto_map"] = {
        "AutoConfig": "own_code.OwnVideoConfig",
        "AutoModelForCausalLM": "own_code.OwnVideoForCausalLM",
    }
    (folder / "config.json").write_text(json.dumps(config))
    return folder
