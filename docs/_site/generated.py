"""Pages that are made from the code, or from files beside `docs/`, so that they can't differ from them."""

from __future__ import annotations

import re
from pathlib import Path

import command_line
import method_pages
import notebook_page

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"


def pages() -> dict[str, str | bytes]:
    """Path within `docs/` and content of each: Markdown, or images that it shows."""
    return {
        **notebook_page.pages(ROOT / "examples" / "tour.ipynb"),
        "cli.md": command_line.page(),
        "contributing.md": (ROOT / "CONTRIBUTING.md").read_text(),
        "changelog.md": (ROOT / "CHANGELOG.md").read_text(),
        "decisions.md": decisions(),
    }


def completed(path: str, markdown: str) -> str:
    """A page with what the code says about it."""
    if path.startswith("methods/") and path != "methods/index.md":
        return method_pages.completed(Path(path).stem, markdown)
    return markdown


def decisions() -> str:
    """The index of decisions: number and title of each."""
    lines = [
        "# Decisions",
        "",
        "Each page says what was decided, why, and what was tried instead. Numbers are never reused, and "
        "some were given to decisions that were not needed in the end.",
        "",
        "| | Decision |",
        "| --- | --- |",
    ]
    for path in sorted((DOCS / "decisions").glob("[0-9]*.md")):
        title = path.read_text().splitlines()[0].removeprefix("# ")
        title = re.sub(r"^\d+\. ", "", title)
        lines.append(f"| {int(path.name[:4])} | [{title}](decisions/{path.name}) |")
    return "\n".join(lines) + "\n"
