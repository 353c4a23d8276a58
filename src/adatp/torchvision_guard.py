"""A torchvision built for another torch can't be imported, and transformers with it: then there is none.

Imported before transformers by the modules that need its processors.
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
"""Why torchvision can't be imported; None where it can, or is not installed."""
