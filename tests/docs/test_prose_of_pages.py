"""House style of the pages that a machine can check: short sentences, and words with private meanings."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from pages import BLOCK, DOCS

LONGEST = 35
"""Words that a sentence of the Quickstart and of the pages in `SHORT` has at most."""

PRIVATE = re.compile(r"(?<![a-z])(behind|alike|told|pictures?|whole|seen)(?![a-z])", re.IGNORECASE)
"""Words that once had meanings of their own here. CONTRIBUTING says what to write instead."""

ORDINARY = {
    "world2.md": ("seen", "behind"),  # questions of the world
    "troubleshooting.md": ("whole", "pictures"),  # messages
    "families.md": ("seen",),  # what the suite has seen
    "serve.md": ("whole",),  # the method, inside the decoder
    "evaluation.md": ("whole",),
    "CONTRIBUTING.md": ("behind", "alike", "told", "picture", "whole", "seen"),  # the rule itself
}
"""Words that a page uses in their everyday meaning."""

PAGES = [
    *sorted(DOCS.glob("*.md")),
    *sorted((DOCS / "methods").glob("*.md")),
    *sorted((DOCS / "api").glob("*.md")),
    *sorted((DOCS / "decisions").glob("*.md")),
    *(DOCS.parent / name for name in ("README.md", "CHANGELOG.md", "CONTRIBUTING.md")),
]

SHORT = [
    *(DOCS / name for name in ("quickstart.md", "index.md", "target.md", "your-model.md", "how-it-works.md")),
    *sorted((DOCS / "decisions").glob("*.md")),
    DOCS.parent / "CHANGELOG.md",
]
"""Pages that a new user reads, or that say why."""


def prose(text: str) -> str:
    """A page without code."""
    return re.sub(r"`[^`\n]*`", "code", BLOCK.sub("\n", text))


def sentences(text: str) -> list[str]:
    """The sentences of a page. Rows, headings and entries of lists begin new ones."""
    parts = re.split(r"\n\s*\n|\n(?=[#|]|[-*] |\d+\. )|(?<=[.!?:])\s+", prose(text))
    return [" ".join(part.split()) for part in parts if part.strip()]


def test_sentences_are_found() -> None:
    text = "# Title\n\nOne. Two\nlines.\n- a `x. y` b\n- c\n\n```python\nnot prose\n```\n| d | e |\n"
    assert sentences(text) == ["# Title", "One.", "Two lines.", "- a code b", "- c", "| d | e |"]


@pytest.mark.parametrize("page", SHORT, ids=lambda page: page.name)
def test_sentences_are_short(page: Path) -> None:
    found = sentences(page.read_text())
    assert [each for each in found if len(each.split()) > LONGEST] == []
    assert found


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_no_word_has_a_private_meaning(page: Path) -> None:
    found = {word.lower() for word in PRIVATE.findall(prose(page.read_text()))}
    assert found - set(ORDINARY.get(page.name, ())) == set()
