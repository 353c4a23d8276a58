"""The second embedded model: a 20-layer Video LLM and its SigLIP partner, as ordinary Hugging Face models.

The Video LLM is a `LlavaOnevisionForConditionalGeneration`: a SigLIP-style tower and a Qwen2 decoder. The
partner is a `SiglipModel` with one more vision layer, the pooling head and a text tower.
"""

from __future__ import annotations

import math

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

from adatp.scenes.vocabulary import GRID, SIZE, words
from adatp.tiny.processor import word_tokenizer
from training.towers import look_at_neighbours

PATCH = 8
TOKENS_PER_FRAME = GRID**2
TEXT_LENGTH = 32
"""Positions of the text tower; texts are padded to it on the left, as it pools the last position."""

VISION_WIDTH, VISION_LAYERS, VISION_HEADS = 192, 5, 6
WIDTH, LAYERS = 192, 20


def build_tokenizer() -> PreTrainedTokenizerFast:
    """The word-level tokenizer of the second world."""
    return word_tokenizer(words())


def _vision_config(layers: int, head: bool) -> SiglipVisionConfig:
    return SiglipVisionConfig(
        hidden_size=VISION_WIDTH,
        intermediate_size=3 * VISION_WIDTH,
        num_hidden_layers=layers,
        num_attention_heads=VISION_HEADS,
        image_size=SIZE,
        patch_size=PATCH,
        vision_use_head=head,
    )


def build_model(tokenizer: PreTrainedTokenizerFast) -> LlavaOnevisionForConditionalGeneration:
    """The Video LLM with random weights from torch's global seed, in float32.

    Args:
        tokenizer: `build_tokenizer()`, for the vocabulary and the special tokens.

    Returns:
        SigLIP tower 192 wide, 5 layers; Qwen2 decoder 192 wide, 20 layers, 6 query heads on 2 key-value
        heads; 36 visual tokens a frame and one newline at the end.
    """
    ids = {token: tokenizer.convert_tokens_to_ids(token) for token in tokenizer.all_special_tokens}
    text = Qwen2Config(
        vocab_size=len(tokenizer),
        hidden_size=WIDTH,
        intermediate_size=2 * WIDTH,
        num_hidden_layers=LAYERS,
        num_attention_heads=6,
        num_key_value_heads=2,
        max_position_embeddings=8192,
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
    with torch.no_grad():  # a deep stack starts as a shallow one
        for layer in model.model.language_model.layers:
            layer.self_attn.o_proj.weight /= math.sqrt(LAYERS / 2)
            layer.mlp.down_proj.weight /= math.sqrt(LAYERS / 2)
    return model


def build_partner(tokenizer: PreTrainedTokenizerFast) -> SiglipModel:
    """The SigLIP that the Video LLM's tower is cut from, with random weights from torch's global seed.

    Args:
        tokenizer: `build_tokenizer()`; texts must be padded to `TEXT_LENGTH`.
    """
    text = SiglipTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=VISION_WIDTH,
        intermediate_size=2 * VISION_WIDTH,
        num_hidden_layers=2,
        num_attention_heads=VISION_HEADS,
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
