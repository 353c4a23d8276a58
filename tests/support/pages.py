"""Pages of the documentation: their blocks of code, run, with what they print put where the page shows it."""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

DOCS = Path(__file__).parents[2] / "docs"

BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
_CALL = re.compile(r"((srun|[A-Z_]+=\S*) +)*adatp( |$)")
_SHOWN = re.compile(r"\A\n+```\n(.*?)^```$", re.DOTALL | re.MULTILINE)


def blocks(text: str, language: str) -> list[str]:
    """The blocks of a language."""
    return [code for kind, code in BLOCK.findall(text) if kind == language]


def commands(text: str) -> list[list[str]]:
    """Arguments of every call of ``adatp`` in the blocks for a shell."""
    found = []
    for block in blocks(text, "sh"):
        for line in block.replace("\\\n", " ").splitlines():
            if call := _CALL.match(line):
                words = shlex.split(line[call.end() :], comments=True)
                end = next((n for n, word in enumerate(words) if word in (">", "|", "&&", ";")), len(words))
                found.append(words[:end])
    return found


def renewed(
    text: str,
    name: str,
    names: dict[str, Any],
    replaced: dict[str, str],
    command: Callable[[list[str]], Any],
    printed: Callable[[], str],
) -> str:
    """The page with what its code prints today.

    Python is run, block after block, in one namespace. Commands for a shell are run where the page shows what
    they print.

    Args:
        text: of the page.
        name: of the page, for tracebacks.
        names: what is defined before the first block.
        replaced: what stands for names that need a network, such as ids on the hub.
        command: runs ``adatp`` with arguments.
        printed: returns what was printed since it was called last.
    """
    names = {"__name__": "page", **names}
    done, parts = 0, []
    for block in BLOCK.finditer(text):
        language, code = block.groups()
        shown = _SHOWN.match(text[block.end() :])
        if language == "python":
            for old, new in replaced.items():
                code = code.replace(old, new)
            printed()
            exec(compile(code, name, "exec", dont_inherit=True), names)
        elif language == "sh" and shown:
            printed()
            for arguments in commands(block.group()):
                command(arguments)
        if language in ("python", "sh") and shown:
            start, end = (block.end() + place for place in shown.span(1))
            parts += [text[done:start], printed()]
            done = end
    return "".join([*parts, text[done:]])
