"""House style that a machine can check: docstrings, sentences, and words with private meanings."""

from __future__ import annotations

import ast
import inspect
import io
import re
import tokenize
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).parents[1]
SHORTEST, LONGEST = 5, 45
"""Words: a docstring has at least, a sentence of one at most so many."""

PRIVATE = re.compile(r"(?<![a-z])(behind|alike|told|pictures?|whole|seen)(?![a-z])", re.IGNORECASE)
"""Words that once had meanings of their own in this code. CONTRIBUTING says what to write instead."""

ALLOWED = {
    "whole number": "the usual name of an integer",
    "whole video": "a video before tokens are dropped, in an error and in the plugin of vLLM",
    "whole request": "in what `adatp ask` prints: plain, and documented",
    "whole prefills": "in an error of the plugin of vLLM: plain",
    "file with pictures": "in an error of `video`: as opposed to sound, and documented",
}
"""Phrases that may be used anywhere, with the reason."""

WORLDS = ("tiny/world/", "scenes/")
"""Folders with clips and questions about what is seen, and about things behind others."""

PLUGIN = "integrations/vllm/"
"""Folder where names and texts may say "whole": a video before tokens are dropped."""


CODE = ("name", "text")
"""Kinds of prose that are not written for readers alone."""


class Prose(NamedTuple):
    """A docstring, a comment, another text or a name of a module."""

    line: int
    kind: str
    text: str


def prose(source: str) -> Iterator[Prose]:
    """Everything of a module that somebody reads. Attributes may have docstrings too."""
    tree = ast.parse(source)
    docs: set[int] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
            if isinstance(node.value.value, str):
                docs.add(id(node.value))
                yield Prose(node.lineno, "docstring", inspect.cleandoc(node.value.value))
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in docs:
            yield Prose(node.lineno, "text", node.value)
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type in (tokenize.COMMENT, tokenize.NAME):
            kind = "comment" if token.type == tokenize.COMMENT else "name"
            yield Prose(token.start[0], kind, token.string)


def sentences(docstring: str) -> Iterator[str]:
    """The sentences of a docstring. Paragraphs, and entries of lists and ``Args``, begin new ones."""
    entry = r"\n(?=\s*(?:- |[\w`*, ]+(?: \(.*?\))?: ))"
    for part in re.split(rf"\n\s*\n|:\n|{entry}", docstring):
        if not part.lstrip().startswith(">>>"):
            yield from (
                " ".join(found.split()) for found in re.split(r"(?<=[.!?])\s+", part) if found.strip()
            )


def private(text: str) -> list[str]:
    """Words with private meanings in a text, outside the allowed phrases."""
    if not PRIVATE.search(text):
        return []
    for phrase in ALLOWED:
        text = re.sub(phrase.replace(" ", r"[\s_]+"), "", text, flags=re.IGNORECASE)
    return [found.group().lower() for found in PRIVATE.finditer(text)]


@cache
def package() -> dict[str, list[Prose]]:
    """The prose of every module, by its path in the package."""
    paths = sorted((ROOT / "src/adatp").rglob("*.py"))
    assert paths
    found = {
        path.relative_to(ROOT / "src/adatp").as_posix(): path.read_text(encoding="utf-8") for path in paths
    }
    return {name: list(prose(source)) for name, source in found.items()}


def test_prose_is_found_and_read_as_sentences() -> None:
    source = '''
class Shape:
    """A shape. It has

    a side.

    Args:
        side: of the shape. In
            pixels.
        name (str): of it.
    - one
    """

    side_seen = 1  # told
    """Attribute."""
    raise_ = "the whole of it, a whole number"
'''
    found = {(item.kind, item.text) for item in prose(source) if item.kind != "name" or "_" in item.text}
    (docstring,) = [text for kind, text in found if kind == "docstring" and text != "Attribute."]
    assert {("docstring", "Attribute."), ("comment", "# told"), ("name", "side_seen")} < found
    assert list(sentences(docstring)) == [
        *("A shape.", "It has", "a side.", "Args", "side: of the shape.", "In pixels."),
        *("name (str): of it.", "- one"),
    ]
    assert private("the whole of it, a whole\n number") == ["whole"]
    assert private("side_seen") == ["seen"]
    assert private("foreseen, untold, wholesale") == []


def docstrings() -> Iterator[tuple[str, int, str]]:
    for name, items in package().items():
        yield from ((name, item.line, item.text) for item in items if item.kind == "docstring")


def test_a_docstring_informs() -> None:
    assert [found for found in docstrings() if len(found[2].split()) < SHORTEST] == []


def test_a_sentence_is_short() -> None:
    found = [(name, line, text) for name, line, docstring in docstrings() for text in sentences(docstring)]
    assert [each for each in found if len(each[2].split()) > LONGEST] == []


def test_no_word_has_a_private_meaning() -> None:
    found = [
        (name, item)
        for name, items in package().items()
        if not name.startswith(WORLDS)
        for item in items
        if {*private(item.text)} - ({"whole"} if name.startswith(PLUGIN) and item.kind in CODE else set())
    ]
    assert found == []


@pytest.mark.parametrize("phrase", ALLOWED)
def test_an_allowed_phrase_is_in_use(phrase: str) -> None:
    pattern = re.compile(phrase.replace(" ", r"[\s_]+"))
    assert any(pattern.search(item.text) for items in package().values() for item in items)
