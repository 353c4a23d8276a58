"""Signals that come amid what an exception would break."""

from __future__ import annotations

import signal
from collections.abc import Iterator

import pytest

from adatp.signals import stopping


@pytest.fixture(autouse=True)
def _handlers_stay() -> Iterator[None]:
    numbers = (signal.SIGINT, signal.SIGTERM)
    before = [signal.getsignal(number) for number in numbers]
    yield
    assert [signal.getsignal(number) for number in numbers] == before


def stopped_by(*numbers: signal.Signals) -> list[str]:
    """What happens as the signals come."""
    done: list[str] = []
    try:
        with stopping(lambda: done.append("stop")):
            for number in numbers:
                signal.raise_signal(number)
                done.append("went on")
    except KeyboardInterrupt:
        done.append("interrupted")
    return done


def test_the_first_signal_stops_and_is_raised_at_the_end() -> None:
    assert stopped_by(signal.SIGINT) == ["stop", "went on", "interrupted"]


def test_the_second_signal_interrupts() -> None:
    assert stopped_by(signal.SIGINT, signal.SIGINT) == ["stop", "went on", "interrupted"]


def test_without_a_signal_nothing_is_stopped() -> None:
    assert stopped_by() == []
