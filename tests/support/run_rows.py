"""Clips of the embedded model's world and rows that ask about them: made once, unchanged by every test."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

FRAMES = 8


@pytest.fixture(scope="session")
def rows(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Eleven rows about six videos; three of these can't be read."""
    from run_clips import break_some, write_clips, write_rows

    folder = tmp_path_factory.mktemp("run")
    found: list[dict[str, Any]] = []
    for number, questions in enumerate(write_clips(folder / "clips", 3, FRAMES)):
        found += [{"video": f"clips/{number:04d}.mp4", "question": question} for question in questions[:3]]
    found[-1] |= {"method": "random", "flops": 0.5, "id": "last"}
    found[1] |= {"frames": 4, "max_new_tokens": 2}
    for place, name in zip((2, 5, 8), break_some(folder / "clips"), strict=True):
        found.insert(place, {"id": name, "video": f"clips/{name}", "question": "what colour is the star ?"})
    return write_rows(folder / "rows.jsonl", found)


def answers(out: Path) -> list[dict[str, Any]]:
    """The output in the order of its files, without what depends on times and batches."""
    from adatp.run import TIMES  # not before torchvision is on the path

    lines = [line for file in sorted(out.glob("part-*.jsonl")) for line in file.read_text().splitlines()]
    return [{name: value for name, value in json.loads(line).items() if name not in TIMES} for line in lines]
