"""The embedded model's architecture: an ordinary LLaVA-OneVision and the SigLIP its tower is cut from (ours).

As in the real LLaVA-OneVision, the Video LLM's vision tower is SigLIP's without its last layer and its head.
`build_relevance` makes the whole SigLIP (text tower, vision tower, head), which is trained contrastively;
`graft_tower` copies its vision tower, less the last layer, into the Video LLM.
"""

from __future__ import annotations

import torch
from transformers import (
    GenerationConfig,
    LlavaOnevisionConfig,
    LlavaOnevisionForConditionalGeneration,
    PreTrainedTokenizerFast,
    Qwen2Config,
    SiglipConfig,
    SiglipModel,
    SiglipTextConfig,
    SiglipVisionConfig,
    SiglipVisionModel,
)

from adatp.tiny.sizes import PATCH, TEXT_LENGTH
from adatp.tiny.world import SIZE

VISION_WIDTH = 128
VISION_LAYERS = 4
"""Layers of the Video LLM's tower; SigLIP has one more."""


def _vision_config(layers: int, head: bool) -> SiglipVisionConfig:
    return SiglipVisionConfig(
        hidden_size=VISION_WIDTH,
        intermediate_size=3 * VISION_WIDTH,
        num_hidden_layers=layers,
        num_attention_heads=4,
        image_size=SIZE,
        patch_size=PATCH,
        vision_use_head=head,
    )


def build_model(tokenizer: PreTrainedTokenizerFast) -> LlavaOnevisionForConditionalGeneration:
    """The Video LLM with random weights (torch's global seed), in fp32.

    Args:
        tokenizer: The world's tokenizer (`processor.build_tokenizer`), for the vocabulary and special tokens.

    Returns:
        A `LlavaOnevisionForConditionalGeneration`: SigLIP tower 128 wide, 4 layers; Qwen2 decoder 192 wide,
        12 layers, 6 query heads on 2 key-value heads; 36 visual tokens a frame and one newline at the end.
    """
    ids = {token: tokenizer.convert_tokens_to_ids(token) for token in tokenizer.all_special_tokens}
    text = Qwen2Config(
        vocab_size=len(tokenizer),
        hidden_size=192,
        intermediate_size=384,
        num_hidden_layers=12,
        num_attention_heads=6,
        num_key_value_heads=2,
        max_position_embeddings=4096,
        initializer_range=0.04,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=ids["<|im_end|>"],
        pad_token_id=ids["<pad>"],
    )
    config = LlavaOnevisionConfig(
        vision_config=_vision_config(VISION_LAYERS, head=False),
        text_config=text,
        image_token_id=ids["<image>"],
        video_token_id=ids["<video>"],
        vision_feature_layer=-1,
        vision_feature_select_strategy="full",
        image_grid_pinpoints=[[SIZE, SIZE]],
        tie_word_embeddings=True,
    )
    model = LlavaOnevisionForConditionalGeneration(config)
    model.generation_config = GenerationConfig(
        eos_token_id=ids["<|im_end|>"], pad_token_id=ids["<pad>"], do_sample=False
    )
    return model


def build_relevance(tokenizer: PreTrainedTokenizerFast) -> SiglipModel:
    """The SigLIP that the Video LLM's tower is cut from, with random weights (torch's global seed), in fp32.

    Args:
        tokenizer: The world's tokenizer; texts must be padded to `TEXT_LENGTH`.
    """
    text = SiglipTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=VISION_WIDTH,
        intermediate_size=2 * VISION_WIDTH,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=TEXT_LENGTH,
        projection_size=VISION_WIDTH,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=None,
        eos_token_id=None,
    )
    config = SiglipConfig(text_config=text, vision_config=_vision_config(VISION_LAYERS + 1, head=True))
    model = SiglipModel(config)
    with torch.no_grad():
        _see_neighbours(model.vision_model)
        model.logit_scale.fill_(2.3)
        model.logit_bias.fill_(-2.0)  # about one pair in eight matches: start from that prior
    return model


def _see_neighbours(vision: SiglipVisionModel) -> None:
    """Start a tower off with heads that look at the patches around: shapes are what neighbours make together.

    From SigLIP's random start it learned colours and places in 200 steps but hardly any shapes. Here position
    has 32 dimensions of its own, sines and cosines of row and column; turned by a fixed angle they are those
    of a patch one step away, which is the query of a head in the first layer (beside, above, below) or the
    second (diagonals). All of it is free to change in training.
    """
    side, waves = SIZE // PATCH, torch.linspace(0.25, 2.5, 8)
    wide = 4 * len(waves)
    phase = torch.arange(side)[:, None] * waves
    axis = torch.cat([phase.sin(), phase.cos()], dim=1)
    rows, columns = axis[:, None].expand(-1, side, -1), axis[None].expand(side, -1, -1)
    place = torch.cat([rows, columns], dim=-1).flatten(0, 1)
    vision.embeddings.position_embedding.weight[:, wide:] = 0
    vision.embeddings.position_embedding.weight[:, :wide] = place
    vision.embeddings.patch_embedding.weight[:wide] *= 0.1

    def turn(steps: int) -> torch.Tensor:
        cos, sin = (steps * waves).cos().diag(), (steps * waves).sin().diag()
        return torch.cat([torch.cat([cos, sin], dim=1), torch.cat([-sin, cos], dim=1)])

    beside = ((0, -1), (0, 1), (-1, 0), (1, 0)), ((-1, -1), (-1, 1), (1, -1), (1, 1))
    for layer, offsets in zip(vision.encoder.layers, beside, strict=False):
        for head, (down, right) in enumerate(offsets):
            query = layer.self_attn.q_proj.weight[head * wide : (head + 1) * wide]
            key = layer.self_attn.k_proj.weight[head * wide : (head + 1) * wide]
            query.zero_()
            key.zero_()
            query[: wide // 2, : wide // 2] = 1.2 * turn(down)
            query[wide // 2 :, wide // 2 : wide] = 1.2 * turn(right)
            key[:, :wide] = 1.2 * torch.eye(wide)
        layer.self_attn.out_proj.weight[:wide] *= 0.1  # leave the place legible to the layers above
        layer.mlp.fc2.weight[:wide] *= 0.1


@torch.no_grad()
def graft_tower(model: LlavaOnevisionForConditionalGeneration, relevance: SiglipModel) -> None:
    """Copy SigLIP's vision tower, less its last layer and head, into the Video LLM, in place."""
    tower, full = model.model.vision_tower, relevance.vision_model
    tower.embeddings.load_state_dict(full.embeddings.state_dict())
    tower.post_layernorm.load_state_dict(full.post_layernorm.state_dict())
    for mine, theirs in zip(tower.encoder.layers, full.encoder.layers[:-1], strict=True):
        mine.load_state_dict(theirs.state_dict())
