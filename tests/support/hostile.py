"""What each hostile call must show: its exit status, one line on stderr, no file changed, nothing left."""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

Run = Callable[..., tuple[int, str, str]]
Setup = Callable[[Path, Path], None]
"""Prepares a case: takes its own empty folder and the shared one."""


@dataclass(frozen=True)
class Call:
    """One hostile call.

    Attributes:
        arguments: with {tmp} for the case's own folder and {world} for the shared one.
        words: some of the one line.
        setup: prepares the case.
        code: the exit status.
    """

    arguments: tuple[str, ...]
    words: str
    setup: Setup = field(default=lambda tmp, world: None)
    code: int = 2


_digests: dict[tuple[int, ...], str] = {}


def _digest(path: Path, status: os.stat_result) -> str:
    """What a file holds; hard links and files that nobody has written to since are read once."""
    key = status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns
    if key not in _digests:
        _digests[key] = hashlib.sha1(path.read_bytes()).hexdigest()
    return _digests[key]


def snapshot(*folders: Path) -> dict[str, tuple[str, str]]:
    """Every file under folders with what it is and holds."""
    found = {}
    for top in folders:
        for folder, names, files in os.walk(top):
            for path in (Path(folder) / name for name in (*names, *files)):
                status = path.lstat()
                mode = status.st_mode
                if stat.S_ISLNK(mode):
                    found[str(path)] = ("link", os.readlink(path))
                elif stat.S_ISREG(mode):
                    found[str(path)] = ("file", _digest(path, status))
                else:
                    found[str(path)] = (str(stat.S_IFMT(mode)), "")
    return found


def check(run: Run, call: Call, tmp: Path, world: Path) -> str:
    """Run a call and check all that it must show; returns its line."""
    call.setup(tmp, world)
    before = snapshot(tmp, world)
    arguments = [argument.format(tmp=tmp, world=world) for argument in call.arguments]
    code, out, err = run(*arguments)
    assert (code, out) == (call.code, ""), err
    assert err.startswith("adatp: "), err
    assert err.endswith("\n")
    assert err.count("\n") == 1, err
    assert err.strip().isprintable(), err
    assert len(err) < 1100
    assert call.words in err, err
    assert snapshot(tmp, world) == before
    return err
