"""Called by hatchling while it builds the package: the README as a package index shows it."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from hatchling.metadata.plugin.interface import MetadataHookInterface

_LINK = re.compile(r"(!?)\[([^\[\]]*)\]\((?![a-z]+:|#)([^()\s]+)\)")
"""A link or an image whose target is a file of the repository."""


class ReadmeHook(MetadataHookInterface):
    """Gives the metadata a README whose links work outside the repository."""

    def update(self, metadata: dict[str, Any]) -> None:
        """Set ``readme``, which is dynamic for this reason."""
        text = (Path(self.root) / "README.md").read_text(encoding="utf-8")
        repository = metadata.get("urls", {}).get("Repository")
        metadata["readme"] = {
            "content-type": "text/markdown",
            "text": shown_by_an_index(text, repository, metadata["version"]),
        }


def shown_by_an_index(text: str, repository: str | None, version: str) -> str:
    """A README without relative links, which lead nowhere on a package index.

    Args:
        text: the README, with links relative to the repository.
        repository: address of the repository, whose files have addresses like those of GitHub; None if it
            has no public one. Then links lose their targets, and images are left out.
        version: the version of the package. Links lead to the files of its tag, such as ``v0.2.0``.
    """

    def replaced(link: re.Match[str]) -> str:
        image, words, target = link.groups()
        if repository is None:
            return "" if image else words
        kind = "raw" if image else "blob"
        return f"{image}[{words}]({repository.rstrip('/')}/{kind}/v{version}/{target})"

    return _LINK.sub(replaced, text)
