"""Rotary positions of the tokens left of a video, appended to their embeddings.

vLLM numbers a prompt before it knows which tokens of a video stay. So at first every row of a pruned video
gets the video's first position. Its distance from there in the unpruned video is appended to its embedding,
and is added when the row is read. Text has its final positions from the beginning. So nothing depends on what
a prefix cache or an earlier chunk has read already, and nothing waits for a GPU.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

_BASE = 256
"""bfloat16 represents all integers up to this, so a number below 65536 takes two columns."""

CHANNELS = 6
"""Columns that are appended: two for each of three offsets."""


def attach(rows: Tensor, offsets: Tensor) -> Tensor:
    """Append to each row its distance from the video's first position.

    Args:
        rows: (n, d) the rows that stay of a video.
        offsets: (n, 3) int64, below 65536.

    Returns:
        (n, d + CHANNELS).
    """
    digits = torch.stack([offsets // _BASE, offsets % _BASE], 2).flatten(1)
    return torch.cat([rows, digits.to(rows.dtype)], 1)


def detach(rows: Tensor, width: int) -> tuple[Tensor, Tensor]:
    """The rows (n, width) alone, and their offsets (n, 3) int64; zeros for rows without offsets."""
    if rows.shape[1] == width:
        return rows, torch.zeros(len(rows), 3, dtype=torch.int64, device=rows.device)
    digits = rows[:, width:].long().view(-1, 3, 2)
    return rows[:, :width], digits[:, :, 0] * _BASE + digits[:, :, 1]


class Offsets:
    """The offsets to add to the positions of the tokens that are about to be read.

    vLLM merges embeddings into a batch's tokens, and then reads the batch.
    """

    def __init__(self) -> None:
        self._waiting: Tensor | None = None

    def take(
        self, media: Sequence[Tensor] | None, is_media: Tensor | None, width: int
    ) -> list[Tensor] | None:
        """Return the embeddings alone. Their offsets wait until the batch is read.

        Args:
            media: embeddings (n, width or more) of each medium in the batch, or of parts of them.
            is_media: (tokens,) bool, which tokens of the batch they belong to, in order.
            width: width of embeddings alone.
        """
        self._waiting = None
        if not media or is_media is None:
            return None if media is None else list(media)
        parts = [detach(rows, width) for rows in media]
        offsets = torch.cat([offset for _, offset in parts])
        mask = is_media.to(offsets.device, non_blocking=True)
        spread = offsets.new_zeros(len(mask), 3)
        self._waiting = spread.masked_scatter_(mask[:, None], offsets).T
        return [rows for rows, _ in parts]

    def add_to(self, positions: Tensor) -> None:
        """Correct the positions (3, tokens or more) of the batch, in place: graphs read them there."""
        if self._waiting is not None:
            positions[:, : self._waiting.shape[1]] += self._waiting.to(positions.dtype)
            self._waiting = None
