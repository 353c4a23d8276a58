"""The code in the documentation runs and prints what is shown.

`WRITE_PAGES=1` writes what it prints into the pages.
"""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

import adatp
from adatp import Session
from adatp.cli import _command, main
from adatp.methods import METHODS
from adatp.tiny import CLIP
from clips import write_clip
from families import LlavaOnevision, Qwen25VL, build
from pages import DOCS, blocks, commands, renewed
from processors import PROCESSORS

EXECUTED = (
    *("index.md", "quickstart.md", "target.md", "your-model.md", "see.md", "bias.md", "methods/index.md"),
    *("evaluation.md", "contexts.md", "world2.md"),
)
"""Pages whose code stands for itself. Others have tests of their own, or show parts of a program."""

PARTS = ("peers.md", "vllm.md")
"""Pages whose code prunes a model that is there already."""

ANSWERED = "evaluation.md"
"""The page whose code reads what two of its commands have written."""

PAGES = sorted(path.relative_to(DOCS).as_posix() for path in DOCS.rglob("*.md"))
FRONT = [DOCS.parent / "README.md", DOCS.parent / "CONTRIBUTING.md", *(DOCS / name for name in PAGES)]


@pytest.fixture(scope="module")
def on_the_hub(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Small random models that stand for two of the hub."""
    folder = tmp_path_factory.mktemp("hub")
    ids = {"Qwen/Qwen2.5-VL-7B-Instruct": Qwen25VL, "llava-hf/llava-onevision-qwen2-7b-ov-hf": LlavaOnevision}
    for family in ids.values():
        build(family).save_pretrained(folder / family.name)
        PROCESSORS[family]().save_pretrained(folder / family.name)
    return {name: str(folder / family.name) for name, family in ids.items()}


@pytest.mark.parametrize("name", [*EXECUTED, *PARTS])
def test_the_page_prints_what_it_shows(
    name: str,
    on_the_hub: dict[str, str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    write_clip(tmp_path / "holiday.mp4")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "80")
    text = (DOCS / name).read_text()

    names = {}
    if name == ANSWERED:
        answer_rows(text, capsys)
    if name in PARTS:
        session = Session()
        inputs = session.prepare(CLIP, "what colour is the star ?").inputs
        names = {"model": session.model, "processor": session.processor, "inputs": inputs}

    def printed() -> str:
        return "".join(f"{line.rstrip()}\n" for line in capsys.readouterr().out.splitlines())

    found = renewed(text, name, names, on_the_hub, main, printed)
    if os.environ.get("WRITE_PAGES"):
        (DOCS / name).write_text(found)
    else:
        assert found == text


def answer_rows(text: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Ask the three questions of the page by its own ``adatp run`` commands."""
    rows = [
        ("what colour is the star ?", "yellow"),
        ("what is the last thing ?", "moon"),
        ("where is the star ?", "southwest"),
    ]
    lines = [
        json.dumps({"video": str(CLIP), "question": question, "expected": word}) for question, word in rows
    ]
    Path("rows.jsonl").write_text("\n".join(lines) + "\n")
    called = [words for words in commands(text) if words[0] == "run"]
    assert len(called) == 2
    for words in called:
        assert main(words) == 0, capsys.readouterr().err


@pytest.mark.parametrize("path", FRONT, ids=lambda path: path.name)
def test_blocks_of_python_are_python(path: Path) -> None:
    for code in blocks(path.read_text(), "python"):
        compile(code, path.name, "exec")


@pytest.mark.parametrize("path", FRONT, ids=lambda path: path.name)
def test_commands_are_known_with_all_their_options(path: Path) -> None:
    for words in commands(path.read_text()):
        name, *arguments = words or ["ask"]
        known = _command().commands
        assert name in known or name.startswith("--"), words
        if name in known and "--help" not in arguments:
            known[name].make_context(name, list(arguments))


def test_every_page_is_named_once_in_the_navigation() -> None:
    """But for what MkDocs is told to leave out, and what it makes."""
    navigation = (DOCS.parent / "mkdocs.yml").read_text().partition("\nnav:")[2]
    for page in PAGES:
        if not page.startswith("decisions/"):
            assert navigation.count(f" {page}\n") == 1, page


def test_every_method_has_its_page() -> None:
    assert {path.stem for path in (DOCS / "methods").glob("*.md")} == {"index", *METHODS}


def test_every_public_name_is_in_the_reference() -> None:
    pages = "".join(path.read_text() for path in (DOCS / "api").glob("*.md"))
    named = {line.rsplit(".", 1)[1] for line in pages.splitlines() if line.startswith("::: ")}
    assert set(adatp.__all__) <= named
