"""The stopwatch of the request that is being processed."""

from __future__ import annotations

from contextlib import AbstractContextManager

import torch

from adatp.report import Stopwatch


class Timer:
    """Times the stages of one request after the other, each on a stopwatch of its own."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._stopwatch = Stopwatch(device)
        self._reported = False

    def new_request(self) -> None:
        """Take another stopwatch if a report has the present one."""
        if self._reported:
            self._stopwatch, self._reported = Stopwatch(self._device), False

    def reported(self) -> Stopwatch:
        """The present stopwatch, for the request's report; later decode steps still add to it."""
        self._reported = True
        return self._stopwatch

    def start(self, stage: str) -> None:
        """Begin a span of ``stage``."""
        self._stopwatch.start(stage)

    def stop(self, stage: str) -> None:
        """End the span of ``stage`` that was begun last; nothing happens if none was."""
        self._stopwatch.stop(stage)

    def time(self, stage: str) -> AbstractContextManager[None]:
        """Time a block."""
        return self._stopwatch.time(stage)
