"""Memory of the process that is free goes back to the system."""

from __future__ import annotations

import ctypes
import sys
import time
from collections.abc import Callable

SECONDS = 10.0
"""Least time between two times that memory is given back, which takes some milliseconds each."""


def trimmer(seconds: float = SECONDS) -> Callable[[], None]:
    """What gives free memory back to the system, at most every ``seconds``.

    The C library of Linux keeps what is freed, for later. Batches take blocks of many sizes, and small ones
    that stay lie between large ones that are free. Nothing leaks, but the resident memory of a server goes on
    growing for hours. ``malloc_trim`` gives back whole pages that are free, wherever they lie. Where the C
    library has no such function nothing is done.
    """
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None) if sys.platform == "linux" else None
    last = time.monotonic()

    def give_back() -> None:
        nonlocal last
        if trim is not None and time.monotonic() - last >= seconds:
            trim(0)
            last = time.monotonic()

    return give_back
