"""The share of a job that one process does, such as a task of an array job."""

from __future__ import annotations

import re
from dataclasses import dataclass

from adatp.errors import RefusedError


@dataclass(frozen=True)
class Shard:
    """Every ``count``-th piece of a job, from piece ``index`` on, which counts from 0."""

    index: int = 0
    count: int = 1

    @classmethod
    def named(cls, text: str) -> Shard:
        """Read what --shard says: "i/n", with i from 1 to n, as test runners and array jobs count.

        Raises:
            RefusedError: the text is no shard.
        """
        found = re.fullmatch(r"(\d{1,9})/(\d{1,9})", text, re.ASCII)
        number, count = map(int, found.groups()) if found else (0, 0)
        if not count:
            raise RefusedError(f"--shard is i/n, such as 1/8, not {text!r}")
        if not 1 <= number <= count:
            raise RefusedError(
                f"--shard {text}: shards are counted from 1, so they go from 1/{count} to {count}/{count}"
            )
        return cls(number - 1, count)

    def has(self, piece: int) -> bool:
        """Whether a piece, counted from 0, belongs to this shard."""
        return piece % self.count == self.index
