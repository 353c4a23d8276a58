"""What a server can do beside the complete method: who is asked, and the table on the page."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

import early_only


def test_the_choices_of_the_plugin_are_asked_at_equal_flops() -> None:
    found = {each.label: each.method.settings for each in early_only.who() if each.target == 0.1}
    assert found["early only, by what is new"]["relevance"] == "none"
    assert found["early only, by question"]["relevance"] == "embedding"
    assert {"adatp", "uniform_frames"} <= found.keys()
    assert all(each.target in early_only.TARGETS for each in early_only.who() if each.label != "vanilla")


def test_the_table_is_written_between_its_marks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(early_only, "TARGETS", (0.1,))
    page = tmp_path / "page.md"
    page.write_text("Before.\n\n<!-- early-only -->\n<!-- /early-only -->\n\nAfter.\n")
    command = f"early_only.py --model tiny --questions 2 --out {tmp_path} --page {page}"
    monkeypatch.setattr(sys, "argv", command.split())
    early_only.main()
    text = page.read_text()
    rows = json.loads((tmp_path / "early-only.json").read_text())["rows"]
    assert {row["n"] for row in rows} == {2}
    assert "| method | frames | 10 % |" in text
    assert "| early only, by question | 16 |" in text
    assert "| early only, by what is new | 16 | 10 % | 2 |" in text
    assert text.startswith("Before.")
    assert text.endswith("After.\n")
