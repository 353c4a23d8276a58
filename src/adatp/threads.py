"""State that each thread has of its own."""

from __future__ import annotations

import threading
from typing import Any, Self


class PerThread(threading.local):
    """Base of what hooks remember between two of their calls: every thread begins with a fresh one.

    Models are copied with their hooks. A copy of this begins afresh too.
    """

    def __deepcopy__(self, _: Any) -> Self:
        return type(self)()
