"""Limits who waits for the model, so that nobody makes all others wait."""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass, field

from adatp.demo.refusal import RefusalError

MOST_WAITING = 16
"""Questions that wait for the model or are being answered."""

MOST_OF_ONE = 4
"""The same limit for one address."""

FORGET_SECONDS = 600.0
"""Seconds after which a question no longer counts, whatever happened to it."""


@dataclass
class Visitors:
    """The questions that are not answered yet, one per session.

    A session is a page that is open in a browser. It may ask again once it got its answer.
    """

    _waiting: dict[str, tuple[str, float]] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def enter(self, address: str, session: str) -> None:
        """Register a question of a session.

        Args:
            address: address of the client.
            session: session of its page.

        Raises:
            RefusalError: too many wait, in total or from this address, or this session does already.
        """
        with self._lock:
            now = time.monotonic()
            self._waiting = {
                name: (whose, since)
                for name, (whose, since) in self._waiting.items()
                if now - since < FORGET_SECONDS
            }
            of_one = sum(whose == address for whose, _ in self._waiting.values())
            if session in self._waiting or of_one >= MOST_OF_ONE or len(self._waiting) >= MOST_WAITING:
                raise RefusalError(503, "too many questions wait for an answer: try again in a moment")
            self._waiting[session] = (address, now)

    def leave(self, session: str | None) -> None:
        """Forget a session's question: it is answered, or nobody listens any more."""
        with self._lock:
            self._waiting.pop(session or "", None)
