"""Signals that come amid what an exception would break."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any


@contextmanager
def stopping(stop: Callable[[], object]) -> Iterator[None]:
    """Let the first SIGINT or SIGTERM call ``stop`` instead of its handler, which gets it at the end.

    A server has handlers of its own, but only once its event loop runs. An exception that is raised before,
    or amid what asyncio does, leaves coroutines that nobody awaits. Later signals reach their handlers: they
    end what does not stop. For the main thread only.

    Args:
        stop: makes the body end soon.
    """
    came: list[int] = []
    before: dict[int, Any] = {}

    def note(number: int, frame: FrameType | None) -> None:
        came.append(number)
        if len(came) == 1:
            stop()
        elif callable(handler := before.get(number)):
            handler(number, frame)

    for each in (signal.SIGINT, signal.SIGTERM):
        before[each] = signal.signal(each, note)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    if came:
        signal.raise_signal(came[0])
