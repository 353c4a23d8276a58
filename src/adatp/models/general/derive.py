"""Derives frames, rows and columns of videos from their tokens, their placeholders and the other inputs."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from adatp.layout import Grid, LayoutError

_MERGES = ("spatial_merge_size", "merge_size", "merge_kernel_size", "spatial_pool_stride")


def by_patches(thw: Sequence[Sequence[int]], tokens: int, config: Any) -> list[Grid]:
    """Grids of tokens from grids of patches, if all videos merge patches in the same way.

    Either the same number of temporal steps become one everywhere, or all steps of a grid do.

    Args:
        thw: temporal steps, rows and columns of each video, in patches.
        tokens: tokens of all videos together.
        config: the model's config; it may give how many patches on a side are merged.

    Raises:
        LayoutError: no way of merging gives this number of tokens.
    """
    patches = sum(math.prod(video) for video in thw)
    ratio, rest = divmod(patches, max(1, tokens))
    named = [_side(getattr(part, name, None)) for part in _parts(config) for name in _MERGES]
    for side in dict.fromkeys([*named, math.isqrt(ratio)]):
        if not side or any(h % side or w % side for _, h, w in thw):
            continue
        steps = 0 if rest else ratio // side**2  # temporal steps that become one
        if steps and ratio == steps * side**2 and all(t % steps == 0 for t, _, _ in thw):
            return [(t // steps, h // side, w // side) for t, h, w in thw]
        if sum(h * w for _, h, w in thw) == tokens * side**2:
            return [(1, h // side, w // side) for _, h, w in thw]
    raise LayoutError(f"the general rule can't merge {patches} patches to {tokens} tokens of equal rows")


def by_runs(tokens: int, runs: Sequence[int], frames: int | None, size: tuple[int, int]) -> Grid:
    """The grid of one video with equal frames and equal rows in them.

    Args:
        tokens: tokens that show a place in the video.
        runs: lengths of its runs of placeholders.
        frames: number of frames in the pixels; None: every run is a frame.
        size: height and width of a frame in pixels, or (0, 0).

    Raises:
        LayoutError: the frames do not have the same number of tokens.
    """
    count = frames if frames and tokens % frames == 0 else len(runs)
    if not count or tokens % count or (count == len(runs) > 1 and len({*runs}) > 1):
        raise LayoutError(
            f"the general rule can't share {tokens} visual tokens in {len(runs)} runs among "
            f"{frames or len(runs)} frames of equal size"
        )
    return (count, *rectangle(tokens // count, size))


def rectangle(tokens: int, size: tuple[int, int]) -> tuple[int, int]:
    """Rows and columns of a frame: a square if the number allows it, else the nearest to the frame's shape.

    Args:
        tokens: tokens of the frame.
        size: its height and width in pixels; with (0, 0) all tokens are one row.
    """
    side = math.isqrt(tokens)
    if side * side == tokens and (size[0] == size[1] or not size[0]):
        return side, side
    if not size[0]:
        return 1, tokens
    shape = math.log(size[0] / size[1])
    rows = min(
        (rows for rows in range(1, tokens + 1) if tokens % rows == 0),
        key=lambda rows: abs(math.log(rows * rows / tokens) - shape),
    )
    return rows, tokens // rows


def _parts(config: Any) -> list[Any]:
    return [part for part in (getattr(config, "vision_config", None), config) if part is not None]


def _side(named: Any) -> int:
    """The side given by one number, or by the two equal numbers of a square."""
    if isinstance(named, (list, tuple)):
        named = named[0] if len({*named}) == 1 else 0
    return int(named) if isinstance(named, int) else 0
