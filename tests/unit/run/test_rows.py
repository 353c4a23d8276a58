"""The rows of an input: what is read, what is refused, how they are cut."""

from __future__ import annotations

import json
import sys
import warnings
from pathlib import Path
from typing import Any

import pytest

from adatp.methods import METHODS, AdaTP
from adatp.run.rows import Row, RowsError, Settings, parts, read_rows, scan
from adatp.shard import Shard

DEFAULTS = Settings(frames=16)


def write(path: Path, *lines: Any) -> Path:
    path.write_text("".join(f"{line if isinstance(line, str) else json.dumps(line)}\n" for line in lines))
    return path


def test_rows_name_their_settings_or_take_the_defaults(tmp_path: Path) -> None:
    file = write(
        tmp_path / "rows.jsonl",
        {"video": "a.mp4", "question": "who ?", "id": "first", "answer": "ignored"},
        "",
        {"video": "b.mp4", "question": "why ?", "flops": 0.5, "frames": 8, "max_new_tokens": None, "id": 7},
        {"video": "c.mp4", "question": "", "method": "vanilla", "frames": 4.0},
        {"video": "d.mp4", "question": "where ?", "method": "adatp-paper"},
    )
    first, second, third, fourth = read_rows(file, Settings(flops=0.3, frames=16))
    assert first == Row(0, "first", "a.mp4", "who ?", Settings(flops=0.3, frames=16))
    assert second == Row(1, 7, "b.mp4", "why ?", Settings(flops=0.5, frames=8))
    assert third == Row(2, 2, "c.mp4", "", Settings(method="vanilla", flops=None, frames=4))
    assert third.settings.pruning() == METHODS["vanilla"]()
    assert second.settings.pruning() == METHODS["adatp"](flops=0.5)
    assert fourth.settings.pruning() == AdaTP.paper(flops=0.3)


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("{", "line 2: not JSON"),
        ("[" * 100_000, "line 2: not JSON"),
        ('"text"', "line 2: not an object"),
        ({"question": "who ?"}, "line 2: video is missing"),
        ({"video": "", "question": "who ?"}, "line 2: video is empty"),
        ({"video": "a.mp4", "question": 3}, "line 2: question is no text: 3"),
        ({"video": "a.mp4", "question": "who ?", "id": [1]}, "line 2: id is a text or a number"),
        ({"video": "a.mp4", "question": "who ?", "method": "magic"}, "line 2: no method 'magic'"),
        ({"video": "a.mp4", "question": "who ?", "flops": 1.5}, r"line 2: flops is a fraction .*1\.5"),
        ({"video": "a.mp4", "question": "who ?", "flops": "0.5"}, "line 2: flops is a fraction"),
        ({"video": "a.mp4", "question": "who ?", "frames": 0}, "line 2: frames is a whole number"),
        ({"video": "a.mp4", "question": "who ?", "frames": True}, "line 2: frames is a whole number"),
        (
            {"video": "a.mp4", "question": "who ?", "method": "vanilla", "flops": 0.5},
            "line 2: method 'vanilla' has no FLOPs target",
        ),
    ],
)
def test_a_row_that_is_none_is_named_by_its_line(tmp_path: Path, line: Any, said: str) -> None:
    file = write(tmp_path / "rows.jsonl", {"video": "a.mp4", "question": "who ?"}, line)
    with pytest.raises(RowsError, match=said):
        scan(file, DEFAULTS, 10, Shard())


def test_files_that_hold_no_rows_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for file, said in (
        (tmp_path / "none.jsonl", r"can't be read \(No such file"),
        (tmp_path, "not a regular file"),
        (write(tmp_path / "empty.jsonl"), "no rows in it"),
        (write(tmp_path / "blank.jsonl", "", "  "), "no rows in it"),
        (write(tmp_path / "no.parquet"), "needs pyarrow"),
    ):
        monkeypatch.setitem(sys.modules, "pyarrow", None)
        with pytest.raises(RowsError, match=said):
            scan(file, DEFAULTS, 10, Shard())
    (tmp_path / "latin.jsonl").write_bytes(b'{"video": "a", "question": "\xe9"}\n')
    with pytest.raises(RowsError, match="line 1: not UTF-8"):
        scan(tmp_path / "latin.jsonl", DEFAULTS, 10, Shard())


def rows(*videos: str) -> list[Row]:
    return [Row(number, number, video, "who ?", DEFAULTS) for number, video in enumerate(videos)]


def test_a_part_goes_on_as_long_as_the_video_is_the_same() -> None:
    cut = [[row.video for row in part.rows] for part in parts(rows(*"abbbccddddddde"), 2)]
    assert cut == [list("abbb"), list("cc"), list("dddd"), list("ddd"), list("e")]
    assert [part.number for part in parts(rows(*"aabb"), 2)] == [0, 1]
    assert not list(parts([], 2))


def test_shards_share_all_parts(tmp_path: Path) -> None:
    file = write(tmp_path / "rows.jsonl", *({"video": f"{n}.mp4", "question": "who ?"} for n in range(25)))
    shares = [scan(file, DEFAULTS, 4, Shard(index, 3)) for index in range(3)]
    assert {share.rows for share in shares} == {25}
    assert len({share.digest for share in shares}) == 1
    assert [list(share.parts) for share in shares] == [[0, 3, 6], [1, 4], [2, 5]]
    assert sum(sum(share.parts.values()) for share in shares) == 25


def test_only_equal_ids_are_warned_about(tmp_path: Path) -> None:
    row = {"video": "a.mp4", "question": "who ?"}
    assert hash(-1) == hash(-2)
    different = write(tmp_path / "rows.jsonl", *({**row, "id": name} for name in (-1, -2, "-1", "a")), row)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        scan(different, DEFAULTS, 4, Shard())
    equal = write(tmp_path / "twins.jsonl", row, row, {**row, "id": 1}, {**row, "id": 0})
    with pytest.warns(UserWarning, match="rows 1 and 2, counted from 0, have the same id 1: join"):
        scan(equal, DEFAULTS, 4, Shard())


def test_the_digest_knows_every_setting(tmp_path: Path) -> None:
    file = write(tmp_path / "rows.jsonl", {"video": "a.mp4", "question": "who ?"})
    digests = {scan(file, each, 4, Shard()).digest for each in (DEFAULTS, Settings(), Settings(flops=0.5))}
    assert len(digests) == 3
