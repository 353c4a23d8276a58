"""What builds the site: links that fit it, and pages made from the code."""

from __future__ import annotations

import dataclasses
import importlib
from pathlib import Path

import pytest

from adatp.cli import _command
from adatp.cli.examples import EXAMPLES
from adatp.methods import METHODS

ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def on_the_path(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "docs" / "_site"))


def test_links_lead_to_pages_of_the_site() -> None:
    links = importlib.import_module("links")
    for page, there, here in (
        ("quickstart.md", "[a](target.md#in-short)", "[a](target.md#in-short)"),
        ("contributing.md", "[a](docs/families.md)", "[a](families.md)"),
        ("contributing.md", "[a](docs/decisions)", "[a](decisions.md)"),
        ("see.md", "[a](../examples/tour.ipynb)", "[a](notebook.md)"),
        ("api/methods.md", "[a](../../CONTRIBUTING.md#add-a-method)", "[a](../contributing.md#add-a-method)"),
        ("methods/fastv.md", "![a](../figures/show.png)", "![a](../figures/show.png)"),
        ("accuracy.md", "[its card](../src/adatp/tiny/checkpoint/README.md)", "its card"),
        ("accuracy.md", "[a](../src/nothing.md)", "[a](../src/nothing.md)"),  # for the check of links to find
        ("accuracy.md", "[a](https://arxiv.org/abs/1), [b](#c)", "[a](https://arxiv.org/abs/1), [b](#c)"),
        ("accuracy.md", "```\n[a](../README.md)\n```", "```\n[a](../README.md)\n```"),
        ("accuracy.md", "27.3 % of `5 % x`", "27.3\u00a0% of `5 % x`"),
    ):
        assert links.fitted(there, page) == here


def test_the_page_of_the_command_line_has_every_option() -> None:
    page = importlib.import_module("command_line").page()
    for name, command in _command().commands.items():
        section = page.split(f"\n## adatp {name}\n")[1].split("\n## ")[0]
        for parameter in command.params:
            names = parameter.opts if parameter.param_type_name == "option" else [parameter.name.upper()]
            assert parameter.name == "help" or all(f"`{each}" in section for each in names), (name, names)


def test_the_page_of_the_command_line_has_every_example() -> None:
    page = importlib.import_module("command_line").page().replace(" \\\n  ", " ")
    for name, examples in EXAMPLES.items():
        section = page.split(f"\n## adatp {name}\n")[1].split("\n## ")[0]
        for what, call in examples.items():
            assert f"\n{what}:\n\n```sh\n{call}\n```\n" in section


@pytest.mark.parametrize("name", METHODS)
def test_the_page_of_a_method_has_every_parameter(name: str) -> None:
    pages = importlib.import_module("method_pages")
    text = (ROOT / "docs" / "methods" / f"{name}.md").read_text()
    page = pages.completed(name, text)
    for field in dataclasses.fields(METHODS[name]):
        assert not field.init or f"\n| `{field.name}` | `{field.default!r}` | " in page
    title = text.splitlines()[0].removeprefix("# ")
    shown = [row for row in pages.tables()[1][1] if title in row[0].split(", ")]
    assert all(" | ".join(row[1:]) in page for row in shown)
    assert name in ("adatp", "vanilla") or "| Solved for | " in page


def test_examples_of_docstrings_become_blocks() -> None:
    pytest.importorskip("griffe", reason="of the extra `docs`, which builds the site")
    fenced = importlib.import_module("examples")
    found = fenced._EXAMPLE.sub(fenced.fenced, "Text.\n\n>>> with a:\n...     b\n\nMore.\n")
    assert found == "Text.\n\n```python\nwith a:\n    b\n```\n\nMore.\n"
