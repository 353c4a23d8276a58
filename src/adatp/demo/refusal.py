"""The error for a client of the page that is refused."""

from __future__ import annotations


class RefusalError(Exception):
    """A request that is not served. It never leaves the page's server.

    Attributes:
        status: the HTTP status.
    """

    def __init__(self, status: int, why: str) -> None:
        super().__init__(why)
        self.status = status
