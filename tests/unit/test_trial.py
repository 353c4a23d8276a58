"""A trial: work that is lost in a copy of the process, not here."""

from __future__ import annotations

import os
import time
from collections.abc import Callable

import pytest

from adatp.checkpoint import CheckpointError, try_out


class PanicError(BaseException):
    """As libraries in Rust raise it."""


def panic() -> None:
    raise PanicError


def endless() -> None:
    while True:
        pass


def refuse() -> None:
    raise ValueError("no")


@pytest.fixture(autouse=True)
def little(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("adatp.checkpoint.trial.MOST_SECONDS", 1)


@pytest.mark.parametrize("work", [lambda: None, lambda: "a" * 10**6, refuse, lambda: print("loud")])
def test_what_may_be_done_here_too(work: Callable[[], object], capfd: pytest.CaptureFixture[str]) -> None:
    try_out(work)
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("work", "words"),
    [
        (endless, "more than 1 s"),
        (lambda: "a" * 10**10, "more than 1024 MB"),
        (lambda: os._exit(3), "more than 1024 MB"),
        (panic, "gives up"),
    ],
)
def test_what_may_not(
    work: Callable[[], object],
    words: str,
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    copies: list[int] = []
    fork = os.fork

    def noted() -> int:
        copies.append(fork())
        return copies[-1]

    monkeypatch.setattr(os, "fork", noted)
    with pytest.raises(CheckpointError, match=words):
        try_out(work)
    assert capfd.readouterr() == ("", "")
    (copy,) = copies
    with pytest.raises(ChildProcessError):  # it is not left; other tests may have children of their own
        os.waitpid(copy, os.WNOHANG)


def test_one_that_waits_for_ever_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("adatp.checkpoint.trial._PATIENCE", 0.1)
    began = time.monotonic()
    with pytest.raises(CheckpointError, match="more than 1 s"):
        try_out(lambda: time.sleep(600))
    assert time.monotonic() - began < 60


def test_where_nothing_can_be_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(os, "fork")
    try_out(lambda: pytest.fail("done"))
