"""The public view of an open context's requests."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

from adatp.errors import PruningError
from adatp.layout import VideoLayout
from adatp.prefill import PruningMethod
from adatp.report import Report

KEPT_REPORTS = 1000
"""`Run.reports` holds at most this many reports; older ones are dropped."""


@dataclass(eq=False)
class Record:
    """What the hooks of a context write down, and its `Run` shows.

    Attributes:
        reports: the last reports, oldest first.
        layouts: layouts of the last report's prompts.
        not_pruned: why prompts were not pruned, and how many times.
    """

    reports: deque[Report] = field(default_factory=lambda: deque(maxlen=KEPT_REPORTS))
    layouts: Sequence[VideoLayout] = ()
    not_pruned: Counter[str] = field(default_factory=Counter)

    def add(self, report: Report, layouts: Sequence[VideoLayout]) -> None:
        """Add the report of one prefill."""
        self.reports.append(report)
        self.layouts = layouts


class Run:
    """What a method has done so far: ``with AdaTP()(model, processor) as run``.

    It stays readable after the context is closed.
    """

    def __init__(self, method: PruningMethod, record: Record, context: Any = None) -> None:
        self._method, self._record = method, record
        self._context = context  # keeps the context open as long as somebody can read this

    @property
    def method(self) -> PruningMethod:
        """The method of this context."""
        return self._method

    @property
    def reports(self) -> list[Report]:
        """One report per prefill that read a video, oldest first; at most the last 1,000."""
        return list(self._record.reports)

    @property
    def report(self) -> Report:
        """Report of the last prefill that read a video.

        Raises:
            PruningError: no prompt with a video has been read yet, or none could be pruned.
        """
        if not self._record.reports:
            reasons = "; ".join(f"{reason} ({times}x)" for reason, times in self.not_pruned.items())
            raise PruningError(
                "nothing to report: no prompt with a video has been read in this context yet"
                + (f"; not pruned: {reasons}" if reasons else "")
            )
        return self._record.reports[-1]

    @property
    def layouts(self) -> list[VideoLayout]:
        """Positions of the visual tokens of the last report's prompts, one layout per sample."""
        return list(self._record.layouts)

    @property
    def not_pruned(self) -> Mapping[str, int]:
        """Why calls were not pruned, and how many. Each also warned, but Python shows equal warnings once.

        A prompt in chunks counts once per chunk. Prompts without anything that looks like a video are not
        counted.
        """
        return MappingProxyType(dict(self._record.not_pruned))
