"""The stopwatch of the request that a thread is processing."""

from __future__ import annotations

import threading
from contextlib import AbstractContextManager

import torch

from adatp.report import Stopwatch


class Timer:
    """Times the stages of requests, each on a stopwatch of its own. Every thread has its own present one."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._own = threading.local()

    @property
    def stopwatch(self) -> Stopwatch:
        """The present one."""
        found: Stopwatch | None = getattr(self._own, "stopwatch", None)
        return self.use(None) if found is None else found

    def use(self, stopwatch: Stopwatch | None) -> Stopwatch:
        """Go on with this one; None: with a new one."""
        self._own.stopwatch = Stopwatch(self._device) if stopwatch is None else stopwatch
        return self.stopwatch

    def start(self, stage: str) -> None:
        """Begin a span of ``stage``."""
        self.stopwatch.start(stage)

    def stop(self, stage: str) -> None:
        """End the span of ``stage`` that was begun last; nothing happens if none was."""
        self.stopwatch.stop(stage)

    def time(self, stage: str) -> AbstractContextManager[None]:
        """Time a block."""
        return self.stopwatch.time(stage)
