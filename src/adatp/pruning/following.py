"""Assigns a decode step to the request whose prompt filled the cache that the step continues."""

from __future__ import annotations

import weakref
from typing import Any

from adatp.report import Report

_NAME = "adatp_request"


class _Ticket:
    """A cache's reference to its request; copies of the cache carry it too."""

    def __init__(self, report: Report | None = None) -> None:
        self._report = None if report is None else weakref.ref(report)

    @property
    def report(self) -> Report | None:
        return None if self._report is None else self._report()

    def __deepcopy__(self, _: Any) -> _Ticket:
        return self

    def __reduce__(self) -> tuple[type[_Ticket], tuple[()]]:
        return _Ticket, ()


def follow(cache: Any, report: Report | None) -> None:
    """Assign later steps on this cache to the request of ``report``; None: to no reported request."""
    if cache is not None:
        setattr(cache, _NAME, _Ticket(report))


def followed(cache: Any) -> Report | None:
    """The report of the request that a step on this cache belongs to."""
    ticket: _Ticket | None = getattr(cache, _NAME, None)
    return None if ticket is None else ticket.report
