"""What MkDocs calls while it builds the site: pages made from the code, and links that fit the site."""

from __future__ import annotations

import re
from typing import Any

import generated
import links
from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File, Files

SHIM = "https://unpkg.com/iframe-worker/shim"
"""Where the theme's plugin for reading from a disk takes its helper from."""

OUTSIDE = re.compile(r"<(?:script|img|iframe|source|video|link)\b[^>]*\b(?:src|href)=\"(?:https?:)?//[^>]*>")
"""What a browser would fetch from another machine as soon as it shows the page."""


def on_files(files: Files, config: Any) -> Files:
    """Add the pages that are made from the code and from files beside `docs/`."""
    for name, content in generated.pages().items():
        files.append(File.generated(config, name, content=content))
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, files: Files) -> str:
    """Complete a page of a method, and lead every link to where its target is on the site."""
    path = page.file.src_uri
    return links.fitted(generated.completed(path, markdown), path)


def on_post_page(output: str, page: Any, config: Any) -> str:
    """Take the helper that search needs on a disk from the site, not from a server of others."""
    depth = page.file.dest_uri.count("/")
    output = output.replace(SHIM, f"{'../' * depth}assets/worker.js")
    if asked := OUTSIDE.search(output):
        raise PluginError(f"{page.file.src_uri} asks for something from outside: {asked.group()}")
    return output
