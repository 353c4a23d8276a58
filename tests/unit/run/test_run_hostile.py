"""Rows, disks and keys that mean no good to ``adatp run``."""

from __future__ import annotations

import json
import os
import resource
from pathlib import Path
from typing import Any

import pytest

from adatp import Session
from adatp.tiny import CLIP
from run_clips import write_rows
from run_rows import FRAMES, answers
from running import Run

QUICK = ("--frames", FRAMES, "--workers", 0, "--batch", 1)


def test_odd_rows_are_errors_and_cost_no_other(run: Run, tmp_path: Path) -> None:
    odd = {
        "no such file": {"video": "x\0y"},
        "\\ud800: no such file": {"video": "\ud800"},
        "not UTF-8 text": {"question": "\ud800"},
        "the token that stands for a video": {"question": "<video> who ?"},
        "the question is empty": {"question": " "},
        "out of reach": {"flops": 0.0001, "strict": True},
        "not a regular file": {"video": "/dev/zero"},
    }
    good: dict[str, Any] = {
        "video": str(CLIP),
        "question": "what colour is the star ?",
        "id": "a\x1b[31m\u202e",
    }
    rows = write_rows(tmp_path / "rows.jsonl", [good, *({**good, **each} for each in odd.values()), good])
    code, out, err = run("run", rows, "--out", tmp_path / "out", *QUICK)
    assert (code, err.count("\n")) == (1, 1)
    assert "have the same id 'a\\x1b[31m\\u202e': join" in err
    found = answers(tmp_path / "out")
    assert (found[0]["answer"], found[-1]["answer"]) == ("yellow", "yellow")
    for had, said in zip(found[1:-1], odd, strict=True):
        assert said in had["error"].encode("ascii", "backslashreplace").decode()
    assert "\x1b" not in out
    assert f"failed: a\\x1b[31m\\u202e: {tmp_path}/x\\x00y: no such file" in out


@pytest.mark.parametrize("make", [Path.mkdir, os.mkfifo])
def test_an_input_that_is_no_file_is_refused(run: Run, tmp_path: Path, make: Any) -> None:
    make(tmp_path / "rows.jsonl")
    code, _, err = run("run", tmp_path / "rows.jsonl", "--out", tmp_path / "out")
    assert code == 2
    assert "not a regular file" in err
    assert not (tmp_path / "out").exists()


def test_a_disk_that_fills_up_amid_a_run(rows: Path, run: Run, tmp_path: Path) -> None:
    out, before = tmp_path / "out", resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1500, before[1]))
    try:
        code, text, err = run("run", rows, "--out", out, *QUICK)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert (code, text, err.count("\n")) == (2, "", 1), err
    assert "can't be written (File too large); run it again to go on" in err
    code, text, _ = run("run", rows, "--out", out, *QUICK)
    assert code == 1
    assert "9 of 12 rows answered" in text
    assert len(answers(out)) == 12


def test_workers_that_can_not_be_started_end_the_run(
    rows: Path, run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The system has no more files, or processes: nobody waits for what will not come."""

    def none_left(*_: Any, **__: Any) -> None:
        raise OSError(24, "Too many open files")

    monkeypatch.setattr("adatp.run.workers.subprocess.Popen", none_left)
    code, out, err = run("run", rows, "--out", tmp_path / "out", "--frames", FRAMES, "--workers", 2)
    assert (code, out) == (2, "")
    assert err == "adatp: a worker process can't be started (Too many open files)\n"


def test_ctrl_c_says_how_to_go_on(
    rows: Path, run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ask, asked = Session.answer_batch, []

    def pressed(self: Session, *args: Any, **kwargs: Any) -> Any:
        asked.append(1)
        if len(asked) == 3:
            raise KeyboardInterrupt
        return ask(self, *args, **kwargs)

    monkeypatch.setattr(Session, "answer_batch", pressed)
    code, _, err = run("run", rows, "--out", tmp_path / "out", *QUICK)
    assert code == 130
    assert err == "adatp: interrupted; run it again to go on\n"
    lines = (tmp_path / "out" / "part-00000.work.jsonl").read_text().splitlines()
    assert [json.loads(line)["error"] is None for line in lines].count(True) == 2
    assert run("run", rows, "--out", tmp_path / "out", *QUICK)[0] == 1
    assert len(asked) == 3 + 7  # nothing is asked twice but what was interrupted
