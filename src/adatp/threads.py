"""State that belongs to one thread."""

from __future__ import annotations

import threading
from typing import Any, Self


class PerThread(threading.local):
    """Base of state that hooks keep between two of their calls: every thread begins with a fresh one.

    Models are copied with their hooks. A copy of this state also begins fresh.
    """

    def __deepcopy__(self, _: Any) -> Self:
        return type(self)()
