"""Links of the Markdown files, which are right on a disk, become those of the site."""

from __future__ import annotations

import posixpath
import re
from pathlib import Path

ROOT = Path(__file__).parents[2]

# Where pages come from that do not lie in docs/.
ELSEWHERE = {
    "README.md": "docs/index.md",
    "CONTRIBUTING.md": "docs/contributing.md",
    "CHANGELOG.md": "docs/changelog.md",
    "docs/decisions": "docs/decisions.md",
    "docs/methods": "docs/methods/index.md",
    "examples/tour.ipynb": "docs/notebook.md",
}
SOURCES = {"contributing.md": "CONTRIBUTING.md", "changelog.md": "CHANGELOG.md"}

_LINK = re.compile(r"(!?)\[((?:[^\[\]]|\[[^\[\]]*\])*)\]\(([^()\s]+)\)")
_FENCE = re.compile(r"(^ *```.*?^ *```\s*?$)", re.DOTALL | re.MULTILINE)


def fitted(markdown: str, page: str) -> str:
    """A page's text with links that the site has.

    Args:
        markdown: with links that are relative to its own file, as an editor follows them.
        page: the page's path within `docs/`.

    Returns:
        Links to what is no page lose their address: the site is not the place where source files are read.
    """
    parts = _FENCE.split(markdown)
    return "".join(
        part if number % 2 else unbroken(_LINK.sub(lambda found: _fitted(found, page), part))
        for number, part in enumerate(parts)
    )


def unbroken(text: str) -> str:
    """A text whose numbers stay in one line with their percent signs."""
    return re.sub(r"(?<=\d) %(?=[^`\n]*(?:`[^`\n]*`[^`\n]*)*$)", "\u00a0%", text, flags=re.MULTILINE)


def _fitted(found: re.Match[str], page: str) -> str:
    image, text, target = found.groups()
    if re.match(r"[a-z]+:|#", target):
        return found.group()
    address, _, anchor = target.partition("#")
    source = posixpath.dirname(SOURCES.get(page, f"docs/{page}"))
    path = posixpath.normpath(posixpath.join(source, address))
    path = ELSEWHERE.get(path, path)
    if not path.startswith("docs/"):
        if not (ROOT / path).exists():
            return found.group()  # which the check of links then reports
        return text
    here = posixpath.dirname(f"docs/{page}")
    fits = posixpath.relpath(path, here) + (f"#{anchor}" if anchor else "")
    return f"{image}[{text}]({fits})"
