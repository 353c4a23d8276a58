"""The embedded model's architecture: an ordinary LLaVA-OneVision and the SigLIP its tower is cut from (ours).

As in the real LLaVA-OneVision, the Video LLM's vision tower is SigLIP's without the last layer and the head.
`build_relevance` makes the complete SigLIP (text tower, vision tower, head), which is trained contrastively;
`towers.graft_tower` copies its vision tower, less the last layer, into the Video LLM.
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
)

from adatp.tiny.sizes import PATCH, TEXT_LENGTH
from adatp.tiny.world import SIZE
from training.towers import look_at_neighbours

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
        look_at_neighbours(model.vision_model)
        model.logit_scale.fill_(2.3)
        model.logit_bias.fill_(-2.0)  # about one pair in eight matches: start from that prior
    return model
