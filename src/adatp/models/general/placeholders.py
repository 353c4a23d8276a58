"""Finds the placeholders of visual tokens in prompts, by the ids that a config names."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

from torch import Tensor

from adatp.layout import LayoutError

_VIDEO = ("video_token_id", "video_token_index")
_IMAGE = ("image_token_id", "image_token_index")
_OTHER = ("audio_token_id", "audio_token_index")


@dataclass(frozen=True)
class Placeholders:
    """The placeholders of the videos of a batch.

    Attributes:
        mask: (B, L) bool.
        copies: rows of the batch that each prompt has (beams, several return sequences).
    """

    mask: Tensor
    copies: int

    @property
    def counts(self) -> list[int]:
        """Number of placeholders of each prompt; copies of a prompt count once."""
        return [int(count) for count in self.mask.sum(1).tolist()[:: self.copies]]

    def runs(self) -> list[list[int]]:
        """Lengths of the runs of placeholders in each prompt."""
        rows = self.mask.tolist()[:: self.copies]
        return [[len(list(run)) for found, run in groupby(row) if found] for row in rows]


def find_placeholders(config: Any, input_ids: Tensor, tokens: int | None, images: bool) -> Placeholders:
    """The placeholders that ``tokens`` encoded tokens fill, or a multiple of them for copies of prompts.

    If a model uses an image's placeholders for videos too, the brackets around a video's identify them.

    Args:
        config: the model's config.
        input_ids: (B, L) int64.
        tokens: number of encoded tokens; None: nothing is encoded yet.
        images: whether they were encoded as images.

    Raises:
        LayoutError: the number of placeholders does not match; the message has all the numbers.
    """
    found = {}
    for name in (*(() if images else _VIDEO), *_IMAGE):
        token = getattr(config, name, None)
        if not isinstance(token, int):
            continue
        mask = _between_brackets(config, input_ids, input_ids == token)
        count = int(mask.sum())
        if count and tokens is None:
            return Placeholders(mask, 1)
        if count and tokens and count % tokens == 0 and len(mask) % (count // tokens) == 0:
            return Placeholders(mask, count // tokens)
        found[name] = count
    held = (
        ", ".join(f"{count} of {name}" for name, count in found.items())
        or "no placeholder that its config names"
    )
    raise LayoutError(
        f"the general rule counts {tokens} visual tokens, but the prompts hold {held}: "
        "what this model does with a video has to be written down in a family file (CONTRIBUTING.md)"
    )


def other_tokens(config: Any) -> Sequence[int]:
    """All placeholders that the config names: none of them is text."""
    named = [getattr(config, name, None) for name in (*_VIDEO, *_IMAGE, *_OTHER)]
    return [token for token in named if isinstance(token, int)]


def _between_brackets(config: Any, input_ids: Tensor, mask: Tensor) -> Tensor:
    start, end = (getattr(config, f"video_{edge}_token_id", None) for edge in ("start", "end"))
    if start is None or end is None or not bool((input_ids == start).any()):
        return mask
    inside: Tensor = (input_ids == start).cumsum(1) > (input_ids == end).cumsum(1)
    return mask & inside
