"""Every error and warning of the package has its entry on the page about trouble, and none is left over."""

from __future__ import annotations

import html
import re
from pathlib import Path

import pytest

from messages import ANY, messages

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "troubleshooting.md").read_text()


def entries(page: str) -> set[str]:
    """The messages in the first column of the page's tables."""
    rows = [re.split(r"(?<!\\)\|", line)[1] for line in page.splitlines() if line.startswith("| ")]
    found = {each.strip() for row in rows for each in row.split("<br>")} - {"Message", "---"}
    return {html.unescape(re.sub(r"\\(.)", r"\1", each)) for each in found}


@pytest.fixture(scope="module")
def said() -> dict[str, str]:
    return messages(ROOT / "src" / "adatp")


def test_every_message_has_its_entry(said: dict[str, str]) -> None:
    missing = {text: place for text, place in said.items() if text not in entries(PAGE)}
    assert not missing, "docs/troubleshooting.md lacks: " + "".join(
        f"\n| {text} | what it means, what to do |  ({place})" for text, place in missing.items()
    )


def test_every_entry_is_said_somewhere(said: dict[str, str]) -> None:
    assert sorted(entries(PAGE) - said.keys()) == []


def test_messages_are_found_in_every_form(tmp_path: Path) -> None:
    (tmp_path / "module.py").write_text(
        """
import warnings
GONE = "the file is gone; look again"

class Late:
    def check(self, path, many):
        hint = f"{path}: not a folder" if many else GONE
        warnings.warn(f"{many} of " f"{path} are late", stacklevel=2)
        if many:
            raise ValueError(hint) from None
        raise RequestError(400, f"{path}: {GONE}", "path")

def late(path):
    return LateError("too " + "late for this")
"""
    )
    assert set(messages(tmp_path)) == {
        f"{ANY} of {ANY} are late",
        f"{ANY}: not a folder",
        "the file is gone; look again",
        f"{ANY}: the file is gone; look again",
        "too late for this",
    }
