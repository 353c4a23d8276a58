"""Hides a torchvision that was built for another torch, since neither it nor transformers could be imported.

Modules that need transformers' processors import this before transformers.
"""

from __future__ import annotations

import sys
from importlib import import_module
from importlib.util import find_spec

from adatp.errors import first_line


def _hide_broken_torchvision() -> str | None:
    if find_spec("torchvision") is None:
        return None
    try:
        import_module("torchvision")
    except Exception as error:  # a RuntimeError for its operators, an OSError for its libraries
        for name in [name for name in sys.modules if name.partition(".")[0] == "torchvision"]:
            del sys.modules[name]
        sys.modules["torchvision"] = None  # type: ignore[assignment]  # "not installed", to all who ask
        return first_line(error)
    return None


BROKEN: str | None = _hide_broken_torchvision()
"""Why torchvision can't be imported; None if it can, or is not installed."""
