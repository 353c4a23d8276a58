"""House rules that a linter has no word for: how long a file, a function, a command may be."""

from __future__ import annotations

import ast
import inspect
from collections.abc import Iterator
from pathlib import Path

import pytest

from adatp.cli import app

ROOT = Path(__file__).parents[1]
FILE, COMMAND, BODY = 400, 120, 60
"""Lines: a file and a command have fewer, the body of a function has at most so many."""

COMMANDS = sorted(
    {Path(inspect.getfile(command.callback)) for command in app.registered_commands if command.callback}
)
"""Files of the functions that the command line calls: not what several commands share."""


def name(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def lines(path: Path) -> int:
    return len(path.read_text(encoding="utf-8").splitlines())


def sources(*folders: str) -> list[Path]:
    found = sorted(path for folder in folders for path in (ROOT / folder).rglob("*.py"))
    assert found, folders
    return found


def functions(source: str) -> Iterator[tuple[str, int]]:
    """Every function and method of a module, with the lines of its body; its docstring does not count."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            body = node.body[1:] if ast.get_docstring(node) is not None else node.body
            yield node.name, (body[-1].end_lineno or 0) - body[0].lineno + 1 if body else 0


def test_the_lines_of_a_body_are_counted_without_the_docstring() -> None:
    source = '''
class Shape:
    def area(self, side):
        """What it covers.

        Of one side.
        """
        wide = side

        # A comment counts, and so does an empty line.
        return (
            wide * side
        )

def nothing():
    """Nothing."""
'''
    assert dict(functions(source)) == {"area": 6, "nothing": 0}


@pytest.mark.parametrize("path", sources("src/adatp", "training"), ids=name)
def test_a_file_is_short(path: Path) -> None:
    assert lines(path) < FILE


@pytest.mark.parametrize("path", sources("src/adatp", "training"), ids=name)
def test_a_function_is_short(path: Path) -> None:
    long = {function: body for function, body in functions(path.read_text(encoding="utf-8")) if body > BODY}
    assert long == {}


@pytest.mark.parametrize("path", COMMANDS, ids=lambda path: path.name)
def test_a_command_is_short(path: Path) -> None:
    assert lines(path) < COMMAND


def imported(path: Path) -> list[str]:
    """What a module imports at its top level, in order."""
    found: list[str] = []
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.Import):
            found += [each.name for each in node.names]
        elif isinstance(node, ast.ImportFrom):
            found.append(node.module or "")
    return found


def test_whoever_imports_transformers_has_looked_at_torchvision_before() -> None:
    """A torchvision of another build breaks it (docs/decisions/0005). A package's ``__init__`` runs first."""
    guard, package, needing = "adatp.torchvision_guard", ROOT / "src/adatp", 0
    for path in sources("src/adatp"):
        names = [each for each in imported(path) if each == guard or each.startswith("transformers")]
        if not names or names == [guard]:
            continue
        needing += 1
        above = [folder / "__init__.py" for folder in path.parents if folder.is_relative_to(package)]
        assert names[0] == guard or any(guard in imported(each) for each in above), name(path)
    assert needing


def test_no_page_has_the_marks_of_a_merge() -> None:
    """Such marks stood in docs/video.md for a day."""
    pages = [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")]
    assert len(pages) > 30
    marks = ("<<<<<<< ", ">>>>>>> ")
    assert [name(page) for page in pages if any(f"\n{mark}" in page.read_text() for mark in marks)] == []
