"""The stopwatch of the request that a thread is processing."""

from __future__ import annotations

from contextlib import AbstractContextManager

import torch

from adatp.report import Stopwatch
from adatp.threads import PerThread


class _Present(PerThread):
    """The stopwatch that one thread uses."""

    stopwatch: Stopwatch | None = None


class Timer:
    """Times the stages of requests, each on its own stopwatch. Every thread has its own current one."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._present = _Present()

    @property
    def stopwatch(self) -> Stopwatch:
        """The stopwatch that this thread currently uses."""
        found = self._present.stopwatch
        return self.use(None) if found is None else found

    def use(self, stopwatch: Stopwatch | None) -> Stopwatch:
        """Continue with this stopwatch; None: with a new one."""
        self._present.stopwatch = found = Stopwatch(self._device) if stopwatch is None else stopwatch
        return found

    def start(self, stage: str) -> None:
        """Begin a span of ``stage`` on the current stopwatch."""
        self.stopwatch.start(stage)

    def stop(self, stage: str) -> None:
        """End the last span of ``stage``. Nothing happens if none was begun."""
        self.stopwatch.stop(stage)

    def time(self, stage: str) -> AbstractContextManager[None]:
        """Time a block as a span of ``stage``."""
        return self.stopwatch.time(stage)
