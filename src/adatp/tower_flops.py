"""Analytic FLOPs of vision and text towers, by the way a tower is built. Plain integers, no tensors.

All are real FLOPs as `adatp.flops` defines them: two per multiply-accumulate, of matrix products,
convolutions and dense attention. Each model family adds up its own tower and projector, in its file in
`adatp.models`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any


def image_tower_flops(
    config: Any, images: int, *, patches: int | None = None, class_token: bool = False, head: bool = False
) -> int:
    """Real FLOPs of a transformer that encodes every image by itself: SigLIP, CLIP, InternViT.

    Args:
        config: the tower's config. Its sizes of image and patch are numbers, or (height, width).
        images: images, or frames.
        patches: patches of one image. None: every image is a square of the config's size.
        class_token: whether a class token precedes the patches.
        head: whether the tower ends with SigLIP's pooling head.
    """
    d, m, side = config.hidden_size, config.intermediate_size, _side(config.patch_size)
    if patches is None:
        patches = (_side(config.image_size) // side) ** 2
    macs: int = patches * config.num_channels * side**2 * d
    macs += config.num_hidden_layers * _layer_macs(d, m, patches + class_token)
    if head:
        macs += (2 + 2 * patches) * d * d + 2 * patches * d + 2 * d * m  # one learned query, then an MLP
    return 2 * images * macs


def siglip_vision_flops(config: Any, images: int) -> int:
    """Real FLOPs of a SigLIP vision tower, with all layers of its config and the head if it has one.

    LLaVA-OneVision's tower has one layer less than SigLIP, and no head. The difference between the two
    configs is the cost that the text-relevance encoder adds.

    Args:
        config: SiglipVisionConfig.
        images: images of the config's size.
    """
    return image_tower_flops(config, images, head=getattr(config, "vision_use_head", True))


def siglip_text_flops(config: Any, sequences: int, length: int) -> int:
    """Real FLOPs of a SigLIP text tower on padded sequences.

    Args:
        config: SiglipTextConfig.
        sequences: number of texts.
        length: tokens of each, padding included (SigLIP was trained on 64).
    """
    d: int = config.hidden_size
    macs: int = config.num_hidden_layers * _layer_macs(d, config.intermediate_size, length)
    macs += d * config.projection_size
    return 2 * sequences * macs


def packed_tower_flops(
    config: Any,
    grids: Sequence[tuple[int, int, int]],
    *,
    width: int,
    layer: int,
    token: int,
    pairs: Callable[[int, int], int] | None = None,
) -> int:
    """Real FLOPs of a transformer on frames of any size, packed into one sequence: Qwen-VL's and GLM-V's.

    Args:
        config: the tower's config.
        grids: (frames, rows, columns) of each video in patches. A frame is one temporal step.
        width: width of the hidden states.
        layer: multiply-accumulates of one layer's linear maps for one patch.
        token: multiply-accumulates that merge the patches of one token and project it.
        pairs: rows and columns of a frame -> pairs of its patches that attend to each other, summed over the
            layers. None: in every layer all patches of a frame attend to each other.
    """
    patch = config.in_channels * config.temporal_patch_size * config.patch_size**2 * width
    macs = 0
    for frames, rows, columns in grids:
        size = rows * columns
        attended = config.depth * size**2 if pairs is None else pairs(rows, columns)
        macs += frames * (size * (patch + config.depth * layer) + 2 * width * attended)
        macs += frames * size // config.spatial_merge_size**2 * token
    return 2 * macs


def plain_tower_flops(config: Any, frames: Sequence[tuple[int, int]]) -> int:
    """Estimate for a tower of which only a config is known: frames attended to one by one, no projector.

    Args:
        config: the tower's config, or None. If it does not name its sizes, nothing is counted.
        frames: for each video, its frames and the patches of each.
    """

    def size(*names: str) -> int:
        found = [getattr(config, name, None) for name in names]
        return next((value for value in found if isinstance(value, int)), 0)

    d = size("hidden_size", "embed_dim")
    layers = size("num_hidden_layers", "depth", "vt_num_hidden_layers")
    m = size("intermediate_size", "vt_intermediate_size") or 4 * d
    return 2 * sum(count * layers * _layer_macs(d, m, patches) for count, patches in frames)


def linear_flops(tokens: int, *widths: int) -> int:
    """Real FLOPs of a chain of linear maps on ``tokens`` tokens: from each width to the next."""
    return 2 * tokens * sum(before * after for before, after in pairwise(widths))


def _layer_macs(d: int, m: int, n: int) -> int:
    return n * (4 * d * d + 2 * d * m) + 2 * n * n * d


def _side(size: Any) -> int:
    return int(size if isinstance(size, int) else size[0])
