"""Checks that the numbers of a config are plausible before a model is built: a wrong one may take all
memory.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from adatp.checkpoint.errors import CheckpointError

_WIDTH = 1 << 20
_SIDE = 1 << 14
LIMITS: dict[str, int] = {
    **dict.fromkeys(("num_hidden_layers", "num_layers", "depth"), 1024),
    **dict.fromkeys(("hidden_size", "intermediate_size", "embed_dim", "out_hidden_size"), _WIDTH),
    **dict.fromkeys(("moe_intermediate_size", "projection_size", "projection_dim"), _WIDTH),
    **dict.fromkeys(("num_attention_heads", "num_key_value_heads", "num_heads", "head_dim"), 1 << 13),
    **dict.fromkeys(("linear_num_key_heads", "linear_num_value_heads"), 1 << 13),
    **dict.fromkeys(("linear_key_head_dim", "linear_value_head_dim"), 1 << 13),
    **dict.fromkeys(("num_experts", "num_local_experts"), 1 << 13),
    **dict.fromkeys(("patch_size", "image_size"), _SIDE),
    **dict.fromkeys(("num_channels", "in_channels", "in_chans"), 1 << 10),
    **dict.fromkeys(("temporal_patch_size", "spatial_merge_size", "merge_size"), 1 << 6),
    **dict.fromkeys(("image_seq_length", "mm_tokens_per_image", "num_position_embeddings"), 1 << 20),
    "vocab_size": 1 << 24,
    "max_position_embeddings": 1 << 31,
}
"""Key of a config -> the largest plausible value; the smallest is 1."""

POSITIVE = ("rms_norm_eps", "layer_norm_eps", "rope_theta", "downsample_ratio", "scale_factor")
"""Numbers that are above 0."""

SEVERAL = ("image_size", "patch_size", "intermediate_size", "moe_intermediate_size")
"""Keys with a number for each axis, layer or kind of expert in some families."""

NEEDED = ("hidden_size", "num_hidden_layers", "num_attention_heads", "vocab_size")
"""Keys that must not be null."""

PARTS = ("text_config", "vision_config")
"""Keys that hold a config."""

MOST_BEAMS = 64


def check_numbers(raw: Mapping[str, Any], where: str = "") -> None:
    """Refuse a config file whose numbers can't be right.

    Args:
        raw: the content of ``config.json``, or one part of it.
        where: names of the parts that contain this one.

    Raises:
        CheckpointError: a number is no number, not positive or not plausible, or a part is missing.
    """
    for key, value in raw.items():
        name = f"{where}{key}"
        if key == "model_type" and not isinstance(value, str):
            raise CheckpointError(f"{name} is a name, not {_shown(value)}")
        if key in PARTS and not isinstance(value, Mapping):
            raise CheckpointError(f"{name} is a config of its own, not {_shown(value)}")
        if isinstance(value, Mapping) and (key not in LIMITS or key in SEVERAL):
            check_numbers(value, f"{name}.")
        elif key in LIMITS:
            _check_size(key, value, name)
        elif key in POSITIVE:
            if value is not None and (not _is_number(value) or not 0 < value < math.inf):
                raise CheckpointError(f"{name} is a number above 0, not {_shown(value)}")
        elif isinstance(value, int | float) and not abs(value) < 1 << 63:  # an id, a rate; not NaN either
            raise CheckpointError(f"{name} can't be {_shown(value)}")


def _check_size(key: str, value: Any, name: str) -> None:
    if value is None and key not in NEEDED:
        return
    for number in value if key in SEVERAL and isinstance(value, list) else [value]:
        if not isinstance(number, int) or isinstance(number, bool) or not 1 <= number <= LIMITS[key]:
            raise CheckpointError(f"{name} is a whole number from 1 to {LIMITS[key]}, not {_shown(number)}")


def check_config(config: Any) -> None:
    """Refuse a config, as loaded by transformers, whose sizes contradict each other.

    Raises:
        CheckpointError: heads don't divide a width, or a patch is larger than the image.
    """
    for part in (config.get_text_config(), getattr(config, "vision_config", None)):
        if part is None:
            continue
        heads = _same_everywhere(part, "num_attention_heads") or _same_everywhere(part, "num_heads")
        # Qwen-VL's towers call their width embed_dim: their hidden_size is the decoder's.
        width = getattr(part, "embed_dim", None) or getattr(part, "hidden_size", None)
        groups = _same_everywhere(part, "num_key_value_heads")
        name = part.model_type
        if heads and width and _same_everywhere(part, "head_dim") is None and width % heads:
            raise CheckpointError(f"{name}: its width {width} can't be divided by its {heads} heads")
        if heads and groups and heads % groups:
            raise CheckpointError(f"{name}: its {heads} heads can't be divided by {groups} key-value heads")
        image, patch = getattr(part, "image_size", None), getattr(part, "patch_size", None)
        if isinstance(image, int) and isinstance(patch, int) and patch > image:
            raise CheckpointError(f"{name}: its patch_size {patch} is more than its image_size {image}")


def _same_everywhere(part: Any, key: str) -> Any:
    """A value of a config, or None if it has none. 0: layers have different ones, as Gemma 4's head_dim."""
    try:
        return getattr(part, key, None)
    except RuntimeError:  # transformers refuses to read it from the config of all layers
        return 0


def check_generation(settings: Any) -> None:
    """Refuse a checkpoint's generation_config.json that would take too much memory.

    Args:
        settings: a ``GenerationConfig``.

    Raises:
        CheckpointError: it asks for too many beams, or for several answers.
    """
    for name, most in (("num_beams", MOST_BEAMS), ("num_return_sequences", 1)):
        value = getattr(settings, name, None)
        if value is not None and (not isinstance(value, int) or not 1 <= value <= most):
            raise CheckpointError(
                f"generation_config.json: {name} is a whole number from 1 to {most}, not {_shown(value)}"
            )


def check_processor(processor: Any) -> None:
    """Refuse a processor that makes images of an implausible size.

    Args:
        processor: the processor that ``AutoProcessor`` loads.

    Raises:
        CheckpointError: a side is no positive number, or above 16,384 pixels, or a patch is 0.
    """
    for kind in ("video_processor", "image_processor"):
        part = getattr(processor, kind, None)
        if part is None:
            continue
        for key in ("patch_size", "temporal_patch_size", "merge_size"):
            _check_size(key, getattr(part, key, None), f"{kind}: {key}")
        for name in ("size", "crop_size"):
            sizes = getattr(part, name, None)
            # With a merge_size the edges are areas in pixels, of an image or of all frames.
            most = 1 << 28 if getattr(part, "merge_size", None) else _SIDE
            for edge in ("height", "width", "shortest_edge", "longest_edge"):
                side = getattr(sizes, edge, None)
                limit = most if edge.endswith("edge") else _SIDE
                if side is not None and (not _is_number(side) or not 1 <= side <= limit):
                    raise CheckpointError(
                        f"{kind}: {name}.{edge} is a number of 1 to {limit} pixels, not {_shown(side)}"
                    )


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _shown(value: Any) -> str:
    if isinstance(value, int) and abs(value) >= 1 << 63:
        return "a number beyond 64 bits"
    text = "null" if value is None else repr(value)
    return text if len(text) <= 40 else f"{text[:37]}..."
