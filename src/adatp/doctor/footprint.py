"""Memory and FLOPs of one request, from a model's config. Plain integers, no weights."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from adatp.budget import Schedule
from adatp.flops import DecoderShape
from adatp.layout import Grid
from adatp.models import family_of


@dataclass(frozen=True)
class Footprint:
    """Memory and FLOPs of one request.

    Attributes:
        weights: bytes of all parameters.
        cache: bytes of keys and values at the end of the answer.
        activations: bytes of the largest intermediate results, roughly: of the vision tower, or of a decoder
            layer.
        decoder_flops: real FLOPs of the decoder's prefill.
        vision_flops: real FLOPs of the vision tower and the projector.
    """

    weights: int
    cache: int
    activations: int
    decoder_flops: int
    vision_flops: int

    @property
    def memory(self) -> int:
        """Bytes of all three together."""
        return self.weights + self.cache + self.activations


def footprint(
    config: Any, parameters: int, grid: Grid, schedule: Schedule, other: int, new_tokens: int, itemsize: int
) -> Footprint:
    """Estimate the cost of a request about one video.

    Args:
        config: the model's config.
        parameters: how many numbers its weights have.
        grid: frames, rows and columns of the video's tokens.
        schedule: visual tokens of each decoder layer, and the prefill's FLOPs.
        other: tokens of the prompt that are not visual.
        new_tokens: tokens of the answer.
        itemsize: bytes of a number.
    """
    shape = DecoderShape.from_config(config.get_text_config())
    tokens = [visual + other for visual in schedule.visual]
    activations = max(_tower_numbers(config, grid), max(tokens) * _layer_numbers(shape))
    return Footprint(
        weights=parameters * itemsize,
        cache=cache_numbers(shape, [count + new_tokens - 1 for count in tokens]) * itemsize,
        activations=activations * itemsize,
        decoder_flops=schedule.flops,
        vision_flops=family_of(config.model_type).vision_flops(config, [grid]),
    )


def cache_numbers(shape: DecoderShape, tokens: Sequence[int]) -> int:
    """How many numbers the decoder's cache holds.

    Args:
        shape: the decoder.
        tokens: tokens that each layer has processed, one count per layer.
    """
    found = 0
    for layer in shape.key_layers:
        kv_heads, head_dim = shape.uneven[layer] if shape.uneven else (shape.kv_heads, shape.head_dim)
        latent = shape.latent
        width = 2 * kv_heads * head_dim if latent is None else latent.rank + latent.rotary
        found += shape.held(layer, tokens[layer]) * width
    if shape.mixer is not None:
        found += len(shape.mixer.layers) * shape.mixer.state
    return found


def patches(config: Any, grid: Grid) -> int:
    """Approximate number of patches that the vision tower encodes for a video; 0 if unknown from its config.

    Args:
        config: the model's config.
        grid: frames, rows and columns of the video's tokens.
    """
    vision = getattr(config, "vision_config", None)
    if merge := getattr(vision, "spatial_merge_size", None):
        return int(math.prod(grid) * merge**2)
    sides = [getattr(vision, name, None) for name in ("image_size", "patch_size")]
    image, patch = (side[0] if isinstance(side, (list, tuple)) else side for side in sides)
    return grid[0] * int(image // patch) ** 2 if image and patch else 0


def _layer_numbers(shape: DecoderShape) -> int:
    """Numbers that a decoder layer holds for one token at its peak: states, and three of the MLP's width."""
    return 4 * shape.hidden + 3 * max(shape.intermediate, shape.dense_intermediate)


def _tower_numbers(config: Any, grid: Grid) -> int:
    """Numbers that the vision tower holds at its peak.

    Where the config names a layer whose states are projected, transformers keeps the states of all layers
    until the tower is done.
    """
    vision = getattr(config, "vision_config", None)

    def size(*names: str) -> int:
        found = (getattr(vision, name, None) for name in names)
        return next((number for number in found if isinstance(number, int)), 0)

    width = size("embed_dim", "hidden_size")  # Qwen2-VL's hidden_size is the width of the tower's output
    kept = size("num_hidden_layers", "depth") if hasattr(config, "vision_feature_layer") else 4
    return patches(config, grid) * (width * kept + 2 * (size("intermediate_size") or 4 * width))
