"""What an open context shows of its requests."""

from __future__ import annotations

from collections.abc import Sequence

from adatp.layout import VideoLayout
from adatp.prefill import PruningMethod
from adatp.pruning.admission import PruningError
from adatp.report import Report


class Run:
    """What a method has done so far: ``with AdaTP()(model, processor) as run``.

    It stays readable after the context is left.
    """

    def __init__(self, method: PruningMethod) -> None:
        self._method = method
        self._reports: list[Report] = []
        self._layouts: Sequence[VideoLayout] = ()

    @property
    def method(self) -> PruningMethod:
        """The method that prunes."""
        return self._method

    @property
    def reports(self) -> list[Report]:
        """One report a prefill that read a video, oldest first."""
        return list(self._reports)

    @property
    def report(self) -> Report:
        """What the last prefill that read a video did.

        Raises:
            PruningError: no prompt with a video has been read yet.
        """
        if not self._reports:
            raise PruningError("nothing to report: no prompt with a video has been read in this context yet")
        return self._reports[-1]

    @property
    def layouts(self) -> list[VideoLayout]:
        """Where the visual tokens of the last report's prompts are, one layout a sample."""
        return list(self._layouts)

    def _add(self, report: Report, layouts: Sequence[VideoLayout]) -> None:
        self._reports.append(report)
        self._layouts = layouts

    def _add_decode_steps(self, steps: int) -> None:
        if self._reports:
            self._reports[-1].decode_steps += steps
