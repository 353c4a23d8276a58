"""Numbers a prompt as if its videos were unpruned, for families whose tokens keep their original
positions.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from vllm.multimodal.inputs import (
    MultiModalFeatureSpec,
    MultiModalFieldConfig,
    MultiModalFieldElem,
    MultiModalKwargsItem,
    PlaceholderRange,
)

Number = Callable[[list[int], list[Any]], tuple[Tensor, int]]
"""vLLM's own numbering of tokens with media: (3, n) positions, and the number to add for later tokens."""


def offsets_of(number: Number, tokens: list[int], **fields: Any) -> Tensor:
    """(n, 3) int64: distance of each token of an unpruned video from the video's first position.

    Args:
        number: vLLM's numbering.
        tokens: (n,) the tokens of the unpruned video.
        fields: fields of the video from vLLM's processor.
    """
    field = MultiModalFieldConfig.batched("video").field
    data = {name: MultiModalFieldElem(data=value, field=field) for name, value in fields.items()}
    place = PlaceholderRange(offset=0, length=len(tokens))
    video = MultiModalFeatureSpec(MultiModalKwargsItem(data), "video", "", place)
    return number(tokens, [video])[0].T


def number_whole(
    number: Number, tokens: Sequence[int], features: Sequence[Any], unpruned: Callable[[Any], list[int]]
) -> tuple[Tensor, int]:
    """Positions (3, n) of a prompt whose videos are pruned, and the number to add for later tokens.

    Text and images have the positions that they have next to unpruned videos. Rows of a video have its first
    one.

    Args:
        number: vLLM's numbering.
        tokens: (n,) tokens of the prompt.
        features: its media.
        unpruned: maps a feature to the tokens of its unpruned video.
    """
    every: list[int] = []  # the prompt with unpruned videos
    where: list[int] = []  # the place there of each of the prompt's tokens
    moved, done = [], 0
    for feature in sorted(features, key=lambda each: each.mm_position.offset):
        if feature.modality != "video":
            text = tokens[done : feature.mm_position.offset]
            moved.append(_moved(feature, len(every) + len(text), feature.mm_position.length))
            continue
        begin, length = feature.mm_position.offset, feature.mm_position.length
        where += range(len(every), len(every) + begin - done)
        every += tokens[done:begin]
        stands = unpruned(feature)
        where += [len(every)] * length
        moved.append(_moved(feature, len(every), len(stands)))
        every += stands
        done = begin + length
    where += range(len(every), len(every) + len(tokens) - done)
    every += tokens[done:]
    positions, _ = number(every, moved)
    return positions[:, torch.tensor(where)], int(positions.max()) + 1 - len(tokens)


def _moved(feature: Any, offset: int, length: int) -> Any:
    """The same medium at another place in the prompt."""
    place = replace(feature.mm_position, offset=offset, length=length)
    return replace(feature, mm_position=place)
