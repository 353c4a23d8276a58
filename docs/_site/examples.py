"""Examples in docstrings, which begin with ``>>>``, become blocks of code."""

from __future__ import annotations

import re
from typing import Any

from griffe import Extension, Object

_EXAMPLE = re.compile(r"(?:^(?:>>>|\.\.\.)(?: .*)?\n?)+", re.MULTILINE)


class Examples(Extension):
    """Without it Markdown takes them for quotations."""

    def on_object(self, *, obj: Object, **_: Any) -> None:
        """Fence the examples of one docstring."""
        if obj.docstring and ">>>" in obj.docstring.value:
            obj.docstring.value = _EXAMPLE.sub(fenced, obj.docstring.value)


def fenced(found: re.Match[str]) -> str:
    """An example as a block, without its prompts."""
    lines = [line[4:] for line in found.group().rstrip().splitlines()]
    return "\n".join(["```python", *lines, "```", ""])
