"""One process writes a file at a time."""

from pathlib import Path

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


def test_a_work_file_in_use_is_refused(tmp_path: Path) -> None:
    with (
        Results(tmp_path / "work"),
        pytest.raises(ResultsError, match="work is being written by another run"),
    ):
        Results(tmp_path / "work")
    with Results(tmp_path / "work"):
        pass
