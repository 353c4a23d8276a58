"""Numbers a prompt as if its videos were whole, for families whose tokens keep their original positions."""

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
"""vLLM's own numbering of tokens with media: (3, n) positions, and what to add to numbers of later tokens."""


def offsets_of(number: Number, tokens: list[int], **fields: Any) -> Tensor:
    """(n, 3) int64: how far each token of a whole video is from the video's first position.

    Args:
        number: vLLM's numbering.
        tokens: (n,) that stand for the whole video.
        fields: of the video, as vLLM's processor made them.
    """
    field = MultiModalFieldConfig.batched("video").field
    data = {name: MultiModalFieldElem(data=value, field=field) for name, value in fields.items()}
    place = PlaceholderRange(offset=0, length=len(tokens))
    video = MultiModalFeatureSpec(MultiModalKwargsItem(data), "video", "", place)
    return number(tokens, [video])[0].T


def number_whole(
    number: Number, tokens: Sequence[int], features: Sequence[Any], whole: Callable[[Any], list[int]]
) -> tuple[Tensor, int]:
    """Positions (3, n) of a prompt whose videos are pruned, and what to add to numbers of later tokens.

    Text and images have the positions that they have beside whole videos; rows of a video have its first one.

    Args:
        number: vLLM's numbering.
        tokens: (n,) of the prompt.
        features: its media.
        whole: the tokens that stand for a video if nothing of it is dropped.
    """
    every: list[int] = []  # the prompt with whole videos
    where: list[int] = []  # of each of the prompt's tokens its place there
    moved, done = [], 0
    for feature in sorted(features, key=lambda each: each.mm_position.offset):
        if feature.modality != "video":
            text = tokens[done : feature.mm_position.offset]
            moved.append(_moved(feature, len(every) + len(text), feature.mm_position.length))
            continue
        begin, length = feature.mm_position.offset, feature.mm_position.length
        where += range(len(every), len(every) + begin - done)
        every += tokens[done:begin]
        stands = whole(feature)
        where += [len(every)] * length
        moved.append(_moved(feature, len(every), len(stands)))
        every += stands
        done = begin + length
    where += range(len(every), len(every) + len(tokens) - done)
    every += tokens[done:]
    positions, _ = number(every, moved)
    return positions[:, torch.tensor(where)], int(positions.max()) + 1 - len(tokens)


def _moved(feature: Any, offset: int, length: int) -> Any:
    """The same medium at another place."""
    place = replace(feature.mm_position, offset=offset, length=length)
    return replace(feature, mm_position=place)
