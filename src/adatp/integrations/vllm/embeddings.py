"""Caches embeddings of unpruned videos, so that another question about a video does not run its tower
again.
"""

from __future__ import annotations

from collections import OrderedDict

from torch import Tensor


class EmbeddingCache:
    """The most recently used embeddings, up to a limit of memory. They stay on their device.

    Args:
        limit: bytes.
    """

    def __init__(self, limit: int) -> None:
        self.limit, self.held = limit, 0
        self._kept: OrderedDict[bytes, Tensor] = OrderedDict()

    def get(self, key: bytes) -> Tensor | None:
        """The embeddings (n, d) of a video, marked as used; None if they are not cached."""
        if key not in self._kept:
            return None
        self._kept.move_to_end(key)
        return self._kept[key]

    def put(self, key: bytes, embeddings: Tensor) -> None:
        """Cache a video's embeddings (n, d). The least recently used make room; beyond the limit none are
        kept.
        """
        size = embeddings.nbytes
        if key in self._kept or size > self.limit:
            return
        while self.held + size > self.limit:
            self.held -= self._kept.popitem(last=False)[1].nbytes
        self._kept[key] = embeddings.clone()  # not a view, which would keep the complete batch
        self.held += size
