"""Limits the memory that the C library of Linux keeps, so that a server does not grow with time.

It keeps what is freed, for later. Batches and videos take blocks of many sizes, and small ones that stay lie
between large ones that are free. Nothing leaks, but resident memory goes on growing for hours. Where the
library is another one these functions do nothing.
"""

from __future__ import annotations

import ctypes
import sys
import time
from collections.abc import Callable
from typing import Any

SECONDS = 10.0
"""Least seconds between two returns of memory. Each takes some milliseconds."""

_M_ARENA_MAX = -8
"""The name of this limit in malloc.h."""

_ARENAS = 2


def _library(function: str) -> Any:
    """The C library's function of that name, or None."""
    return getattr(ctypes.CDLL(None), function, None) if sys.platform == "linux" else None


def share_heaps() -> None:
    """Let all threads allocate from a few heaps.

    A thread has a heap of its own otherwise, up to eight a core, and each keeps the most that it ever needed.
    Decoding a video starts new threads each time.
    """
    mallopt = _library("mallopt")
    if mallopt is not None:
        mallopt(_M_ARENA_MAX, _ARENAS)


def trimmer(seconds: float = SECONDS) -> Callable[[], None]:
    """A function that gives free pages back to the system, at most every ``seconds``."""
    trim = _library("malloc_trim")
    last = time.monotonic()

    def give_back() -> None:
        nonlocal last
        if trim is not None and time.monotonic() - last >= seconds:
            trim(0)
            last = time.monotonic()

    return give_back
