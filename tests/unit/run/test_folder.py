"""The output folder: lines cut short, locks, what binds it."""

from __future__ import annotations

import errno
import json
import os
from pathlib import Path
from typing import Any

import pytest

from adatp.run.folder import FACTS, Folder, FolderError, Work
from adatp.run.sizes import size_of

BOUND = {"rows": 3, "model": "m"}


def facts(row: int, error: str | None = None) -> dict[str, object]:
    return {"row": row, "answer": "x" * row, "error": error}


def test_a_part_grows_by_lines_and_ends_in_order(tmp_path: Path) -> None:
    folder = Folder(tmp_path / "out", BOUND)
    with Work(folder, 0) as work:
        for row in (2, 0, 1):
            work.add(facts(row))
            assert len(folder.work(0).read_text().splitlines()) == len(work.held)  # on disk at once
        work.finish()
    assert [record["row"] for record in folder.records(0)] == [0, 1, 2]
    assert sorted(file.name for file in folder.path.iterdir()) == ["part-00000.jsonl", FACTS]


@pytest.mark.parametrize("rest", [b'{"row": 1, "ans', b'{"row": 1, "answer": "", "error": null}', b"\xff"])
def test_a_line_cut_short_is_asked_again(tmp_path: Path, rest: bytes) -> None:
    folder = Folder(tmp_path / "out", BOUND)
    with Work(folder, 0) as work:
        work.add(facts(0))
    with folder.work(0).open("ab") as file:
        file.write(rest)
    with Work(folder, 0) as work:
        assert work.held == {0}
        work.add(facts(1))
        work.finish()
    assert [record["row"] for record in folder.records(0)] == [0, 1]


def test_a_damaged_work_file_is_left_alone(tmp_path: Path) -> None:
    folder = Folder(tmp_path / "out", BOUND)
    for content in ("not an answer\n", '{"row": "1", "error": null}\n', "[]\n"):
        folder.work(0).write_text(content)
        with pytest.raises(FolderError, match="line 1 is damaged"):
            Work(folder, 0)
        assert folder.work(0).read_text() == content


def test_one_process_at_a_time_writes_a_part(tmp_path: Path) -> None:
    folder = Folder(tmp_path / "out", BOUND)
    with Work(folder, 0) as work:
        with pytest.raises(FolderError, match="being written by another run"):
            Work(folder, 0)
        work.add(facts(0, "no such file"))
    with Work(folder, 0, again=True) as work:  # rewritten without what failed, and locked again
        assert not work.held
        with pytest.raises(FolderError, match="being written"):
            Work(folder, 0)


def test_failed_rows_of_a_complete_part_are_asked_again_if_wanted(tmp_path: Path) -> None:
    folder = Folder(tmp_path / "out", BOUND)
    with Work(folder, 0) as work:
        work.add(facts(0))
        work.add(facts(1, "no such file"))
        work.finish()
    before = folder.done(0).read_text().splitlines()
    folder.reopen(0)
    assert not folder.done(0).exists()
    assert folder.work(0).read_text().splitlines() == before[:1]
    with Work(folder, 0) as work:
        work.add(facts(1))
        work.finish()
    folder.reopen(0)  # nothing failed
    assert folder.has([0])


def test_a_folder_is_bound_to_its_run(tmp_path: Path) -> None:
    Folder(tmp_path / "out", BOUND)
    Folder(tmp_path / "out", BOUND)
    with pytest.raises(FolderError, match=r'holds another run: model is "m" there, "n" here'):
        Folder(tmp_path / "out", {**BOUND, "model": "n"})
    with pytest.raises(FolderError, match=r"another version of adatp \(run\.json lacks flops\)"):
        Folder(tmp_path / "out", {**BOUND, "flops": 0.1})
    (tmp_path / "out" / FACTS).write_text("{")
    with pytest.raises(FolderError, match="damaged"):
        Folder(tmp_path / "out", BOUND)
    foreign = tmp_path / "foreign"
    foreign.mkdir()
    (foreign / "part-00000.jsonl").write_text("precious\n")
    with pytest.raises(FolderError, match=r"holds part-00000\.jsonl, which is of no run"):
        Folder(foreign, BOUND)
    assert [file.name for file in foreign.iterdir()] == ["part-00000.jsonl"]
    assert json.loads((tmp_path / "out" / FACTS).read_text() + "}") == {}


def test_videos_are_known_by_their_sizes(tmp_path: Path) -> None:
    """In parts that are complete or not: files, and folders of images. What has no size is not compared."""
    frames = tmp_path / "frames"
    frames.mkdir()
    (frames / "1.png").write_bytes(b"12")
    (frames / "notes.txt").write_text("of no frame")
    (tmp_path / "a.mp4").write_bytes(b"123")
    assert [size_of(str(tmp_path / name)) for name in ("a.mp4", "frames", "gone")] == [3, 2, None]
    assert size_of("http://a/b.mp4") is None
    folder = Folder(tmp_path / "out", BOUND)
    with Work(folder, 0) as work:
        work.add({**facts(0), "video": "a.mp4", "video_bytes": 3})
        work.add({**facts(1, "no such file"), "video": "gone", "video_bytes": None})
        work.finish()
    with Work(folder, 1) as work:
        work.add({**facts(2), "video": "frames", "video_bytes": 2})
    with folder.work(1).open("a") as file:
        file.write('{"row": 3, "cut sho')
    folder.check_videos(range(3), tmp_path)
    (frames / "2.png").write_bytes(b"1")
    with pytest.raises(FolderError, match=r"frames had 2 bytes there, and .*/frames has 3 bytes here"):
        folder.check_videos(range(3), tmp_path)
    folder.check_videos([0], tmp_path)
    (tmp_path / "a.mp4").unlink()
    with pytest.raises(FolderError, match=r"a\.mp4 had 3 bytes there, and .*/a\.mp4 can't be read here"):
        folder.check_videos([0], tmp_path)


def test_a_folder_without_hard_links_is_bound_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def link(*_: Any) -> None:
        raise OSError(errno.EOPNOTSUPP, os.strerror(errno.EOPNOTSUPP))

    monkeypatch.setattr(os, "link", link)
    Folder(tmp_path / "out", BOUND)
    assert [file.name for file in (tmp_path / "out").iterdir()] == [FACTS]
    with pytest.raises(FolderError, match="holds another run"):
        Folder(tmp_path / "out", {**BOUND, "rows": 4})


def test_shards_with_one_process_id_bind_a_folder_together(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As in containers on two machines: the second begins while the first one is about to bind it."""
    before = os.link

    def link(*names: Any) -> None:
        monkeypatch.setattr(os, "link", before)
        Folder(tmp_path / "out", BOUND)
        before(*names)

    monkeypatch.setattr(os, "link", link)
    Folder(tmp_path / "out", BOUND)
    assert [file.name for file in (tmp_path / "out").iterdir()] == [FACTS]
