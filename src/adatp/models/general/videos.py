"""Finds the parts that make up each video, and the grid of each."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import accumulate, pairwise
from typing import Any

from adatp.layout import Grid, LayoutError
from adatp.models.general.derive import by_patches, by_runs
from adatp.models.general.encoded import Encoded
from adatp.models.general.placeholders import Placeholders


def grids_of(config: Any, encoded: Encoded, placeholders: Placeholders, images: bool) -> list[Grid]:
    """The grid of each video, in the order of the prompts.

    Args:
        config: the model's config.
        encoded: the encoded videos.
        placeholders: placeholders of the prompts.
        images: whether all images of a prompt are the frames of its one video.

    Raises:
        LayoutError: no grids account for all tokens.
    """
    if encoded.thw is not None and not images:
        grids = by_patches(encoded.thw.tolist(), sum(encoded.shown), config)
        if len(encoded.parts) == len(grids) and [*map(math.prod, grids)] != encoded.shown:
            raise LayoutError("the general rule finds other tokens than the videos' grids have")
        return _frames_joined(grids, placeholders.counts)
    videos = _videos(encoded, placeholders, images)
    frames = encoded.frames if encoded.frames is not None and len(encoded.frames) == len(videos) else None
    runs = _runs_by_video(placeholders, [sum(len(encoded.parts[p]) for p in parts) for parts in videos])
    grids = []
    for number, parts in enumerate(videos):
        if images and len(runs[number]) == 1:
            raise LayoutError("a lone image is no video's frame")
        count = frames[number] if frames is not None and not images else None
        grids.append(by_runs(sum(encoded.shown[p] for p in parts), runs[number], count, encoded.size))
    return grids


def _frames_joined(grids: list[Grid], counts: Sequence[int]) -> list[Grid]:
    """If all of a prompt's grids are single frames of one size, join them to one video."""
    if any(grid[0] > 1 for grid in grids):
        return grids
    joined: list[Grid] = []
    for parts in _by_prompt([math.prod(grid) for grid in grids], counts):
        frames = [grids[part] for part in parts]
        same = len({*frames}) == 1
        joined += [(len(frames), *frames[0][1:])] if same else frames
    return joined


def _videos(encoded: Encoded, placeholders: Placeholders, images: bool) -> list[list[int]]:
    """Indices of the parts of each video."""
    parts = range(len(encoded.parts))
    if not images:
        if encoded.frames is not None and len(encoded.frames) == len(parts):
            return [[part] for part in parts]
        if encoded.frames is not None and sum(encoded.frames) == len(parts):
            ends = [0, *accumulate(encoded.frames)]
            return [list(parts[begin:end]) for begin, end in pairwise(ends)]
        if len(parts) <= sum(count > 0 for count in placeholders.counts):
            return [[part] for part in parts]
    return _by_prompt([*map(len, encoded.parts)], placeholders.counts)


def _by_prompt(sizes: Sequence[int], counts: Sequence[int]) -> list[list[int]]:
    """Indices of parts by prompt: each prompt's parts are its one video."""
    ends, videos, begin = [0, *accumulate(sizes)], [], 0
    for end in accumulate(count for count in counts if count):
        if end not in ends:
            raise LayoutError(
                "the general rule can't tell which prompt a part of the encoded videos belongs to"
            )
        videos.append([part for part in range(len(sizes)) if begin <= ends[part] < end])
        begin = end
    return videos


def _runs_by_video(placeholders: Placeholders, sizes: Sequence[int]) -> list[list[int]]:
    """The runs of placeholders of each video. A run that several videos share is cut."""
    left = [length for prompt in placeholders.runs() for length in prompt]
    found = []
    for size in sizes:
        own = []
        while size > 0 and left:
            taken = min(size, left[0])
            own.append(taken)
            size -= taken
            left = [left[0] - taken, *left[1:]] if taken < left[0] else left[1:]
        found.append(own)
    return found
