"""The page on data sets shows what the command prints and writes."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest

from adatp.integrations import ray as on_ray
from adatp.run import TIMES
from adatp.tiny import CLIP
from running import Run

PAGE = (Path(__file__).parents[2] / "docs" / "run.md").read_text()
BLOCKS: list[tuple[str, str]] = re.findall(r"```(\w*)\n(.*?)```", PAGE, re.DOTALL)


def block(language: str, part: str) -> str:
    [found] = [content for kind, content in BLOCKS if kind == language and part in content]
    return found


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    shutil.copy(CLIP, "clip.mp4")
    Path("rows.jsonl").write_text(block("json", '"lost"'))
    return tmp_path


def timeless(facts: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in facts.items() if name not in TIMES or name == "batch"}


def test_the_command_prints_and_writes_what_is_shown(here: Path, run: Run) -> None:
    command = block("sh", "adatp run rows.jsonl --out answers\n").split()[1:]
    code, out, _ = run(*command, "--workers", 0)
    assert code == 1
    shown = block("", "rows answered").splitlines()
    for found, line in zip(out.splitlines(), shown, strict=True):
        if not line.startswith("this run: 4 rows in "):
            assert found == line
    first = Path("answers/part-00000.jsonl").read_text().splitlines()[0]
    assert timeless(json.loads(first)) == timeless(json.loads(block("json", '"row": 0')))


def test_the_python_example_goes_on_with_the_folder(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code = block("python", "Answering(session")
    exec(compile(code, "run.md", "exec", dont_inherit=True), {})
    assert capsys.readouterr().out == block("", "4 1")


def test_the_lines_for_ray_call_what_there_is(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`make ray` runs them on a cluster; here, that their arguments are known."""
    compile(code := block("python", "ray.data.read_json"), "run.md", "exec")
    for name in re.findall(r"(\w+)=", code):
        assert name in on_ray.answer.__annotations__
