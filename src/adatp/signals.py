"""Handles signals that arrive where an exception would break things."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any


@contextmanager
def stopping(stop: Callable[[], object]) -> Iterator[None]:
    """Let the first SIGINT or SIGTERM call ``stop`` instead of its handler. The handler is called at the end.

    A server has its own handlers, but only once its event loop runs. An exception raised earlier, or inside
    asyncio, leaves coroutines that nobody awaits. Later signals reach their handlers, so that they end a body
    that does not stop. For the main thread only.

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


@contextmanager
def interrupted_by_sigterm() -> Iterator[None]:
    """Let SIGTERM raise `KeyboardInterrupt`. By itself it ends this process alone, not what that started."""
    if threading.current_thread() is not threading.main_thread():  # which gets no signals
        yield
        return
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
