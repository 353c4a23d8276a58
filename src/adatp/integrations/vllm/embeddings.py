"""Embeddings of whole videos, so that another question about a video does not run its tower again."""

from __future__ import annotations

from collections import OrderedDict

from torch import Tensor


class EmbeddingCache:
    """The embeddings used last, up to a limit of memory; they stay on their device.

    Args:
        limit: bytes.
    """

    def __init__(self, limit: int) -> None:
        self.limit, self.held = limit, 0
        self._kept: OrderedDict[bytes, Tensor] = OrderedDict()

    def get(self, key: bytes) -> Tensor | None:
        """The embeddings of a video, which then count as used last; None if they are not there."""
        if key not in self._kept:
            return None
        self._kept.move_to_end(key)
        return self._kept[key]

    def put(self, key: bytes, embeddings: Tensor) -> None:
        """Remember a video. What was used longest ago makes room; a video beyond the limit is not kept."""
        size = embeddings.nbytes
        if key in self._kept or size > self.limit:
            return
        while self.held + size > self.limit:
            self.held -= self._kept.popitem(last=False)[1].nbytes
        self._kept[key] = embeddings.clone()  # not a view of a batch, which would be held whole
        self.held += size
