"""One process writes a file at a time."""

import errno
import os
from pathlib import Path
from typing import Any

import pytest

from adatp.evaluation.results import Results, ResultsError
from adatp.locking import lock

pytest.importorskip("fcntl", reason="Windows has no locks of this kind")


def test_a_lock_is_had_once_until_its_file_is_closed(tmp_path: Path) -> None:
    path = tmp_path / "file"
    with path.open("w") as one, path.open("w") as other:
        assert lock(one)
        assert not lock(other)
        one.close()
        assert lock(other)


@pytest.mark.parametrize(
    ("number", "free"), [(errno.ENOSYS, True), (errno.ENOLCK, True), (errno.EAGAIN, False)]
)
def test_a_file_system_without_locks_holds_nobody_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, free: bool
) -> None:
    def flock(*_: Any) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr("fcntl.flock", flock)
    with (tmp_path / "file").open("w") as file:
        assert lock(file) == free


def test_a_work_file_in_use_is_refused(tmp_path: Path) -> None:
    with (
        Results(tmp_path / "work"),
        pytest.raises(ResultsError, match="work is being written by another run"),
    ):
        Results(tmp_path / "work")
    with Results(tmp_path / "work"):
        pass
