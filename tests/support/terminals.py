"""Stands in for a terminal."""

from __future__ import annotations

import io
import sys

import pytest


class Terminal(io.StringIO):
    """Text that a program believes it writes to a terminal."""

    def isatty(self) -> bool:
        """It is one."""
        return True


def terminal_for_stderr(monkeypatch: pytest.MonkeyPatch) -> Terminal:
    """Put a terminal in the place of stderr for one test."""
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setenv("TERM", "xterm")
    return terminal
