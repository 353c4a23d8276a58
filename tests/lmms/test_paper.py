"""``adatp paper --offline-check``: the complete chain through lmms-eval's own program."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

from adatp.paper.offline import TASKS

Command = Callable[..., tuple[int, str, str]]


def test_the_complete_chain(run: Command, tmp_path: Path) -> None:
    out = tmp_path / "paper"
    code, text, err = run("paper", "--offline-check", "--out", out)
    logs = {log: log.read_text() for log in out.rglob("log.txt")}
    assert code == 0, (err, logs)
    rows = json.loads((out / "table.json").read_text())["rows"]
    assert [row["method"] for row in rows] == ["vanilla", "adatp"]
    assert rows[0]["flops_ratio"] == 1
    assert 0.26 < rows[1]["flops_ratio"] <= 0.274
    assert rows[1]["failed"] == 0
    assert all(set(row["tasks"]) == set(TASKS) for row in rows)
    assert "| adatp 27.3 % | 27." in text
    written = {log: log.stat().st_mtime_ns for log in logs}
    assert run("paper", "--offline-check", "--out", out)[:2] == (0, text)
    assert {log: log.stat().st_mtime_ns for log in logs} == written
