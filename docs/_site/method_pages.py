"""What the code and the table of peers say about a method, added to its page."""

from __future__ import annotations

import dataclasses
import inspect
import re
from pathlib import Path

from adatp.methods import METHODS

PEERS = (Path(__file__).parents[1] / "peers.md").read_text()


def completed(name: str, markdown: str) -> str:
    """The page of a method with its facts, its parameters and what differs from the official code."""
    title, _, text = markdown.partition("\n")
    parts = [title, facts(name), text.strip(), use(name), "## Parameters"]
    parts.append(parameters(name))
    if found := differences(title.removeprefix("# ").strip()):
        parts += ["## What differs from the official code", found]
    return "\n\n".join(part for part in parts if part) + "\n"


def facts(name: str) -> str:
    """Its row of the table of peers, turned."""
    head, rows = tables()[0]
    for row in rows:
        if row[0] == f"`{name}`":
            kept = [(title, cell) for title, cell in zip(head[1:], row[1:], strict=True) if cell]
            lines = [f"| {re.sub('[¹²]', '', title)} | {cell} |" for title, cell in kept]
            note = ""
            if any("target" in title for title, _ in kept):
                note = (
                    "\n\nLowest target: of the embedded model with 16 frames, of LLaVA-OneVision-7B with 32."
                )
            return "\n".join(["| | |", "| --- | --- |", *lines]) + note
    return ""


def parameters(name: str) -> str:
    """Its parameters with their defaults, and what the docstrings say of them."""
    method = METHODS[name]
    said = described(inspect.getdoc(method.__mro__[1]) or "") | described(inspect.getdoc(method) or "")
    rows = [
        f"| `{field.name}` | `{field.default!r}` | {said[field.name]} |"
        for field in dataclasses.fields(method)
        if field.init
    ]
    if not rows:
        return "It has none."
    return "\n".join(["| Parameter | Default | Meaning |", "| --- | --- | --- |", *rows])


def described(docstring: str) -> dict[str, str]:
    """What the section of attributes says of each."""
    section = re.search(r"^Attributes:\n((?: .*\n?|\n)+)", docstring, re.MULTILINE)
    text = inspect.cleandoc(section.group(1)) if section else ""
    found = re.findall(r"^(\w+): (.*(?:\n +.*)*)", text, re.MULTILINE)
    return {
        name: re.sub(r"``", "`", " ".join(meaning.split())).replace("|", "\\|") for name, meaning in found
    }


def use(name: str) -> str:
    """How it is called."""
    method = METHODS[name]
    target = "" if method.flops is None else "flops=0.273"
    option = "" if method.flops is None else " --flops 0.273"
    python = [
        f"from adatp.methods import {method.__name__}",
        "",
        f"with {method.__name__}({target})(model, processor) as run:",
        "    ids = model.generate(**inputs)",
    ]
    shell = [f"adatp ask clip.mp4 QUESTION --method {name}{option}"]
    return "\n".join(["## Use", "", "```python", *python, "```", "", "```sh", *shell, "```"])


def differences(title: str) -> str:
    """The rows of the second table that concern it: its own, and those of all methods."""
    head, rows = tables()[1]
    own = [row for row in rows if title in re.split(", ", row[0])]
    if not own:
        return ""
    everyone = [row for row in rows if row[0] == "all"]
    lines = [
        f"| {' | '.join(cells)} |" for cells in [head[1:], ["---"] * 2, *(row[1:] for row in own + everyone)]
    ]
    return "\n".join(lines)


def tables() -> list[tuple[list[str], list[list[str]]]]:
    """Heads and rows of the page's tables."""
    found = []
    for block in re.findall(r"(?:^\|.*\n)+", PEERS, re.MULTILINE):
        lines = [[cell.strip() for cell in line.strip().strip("|").split("|")] for line in block.splitlines()]
        found.append((lines[0], lines[2:]))
    return found
