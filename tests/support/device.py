"""Where the suite runs: ``TEST_DEVICE=cuda`` puts small models and the tests' tensors on a GPU.

Tensors that files of the tests make land there. Those that the package makes do not: it has to say where.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import torch
from torch.overrides import TorchFunctionMode
from torch.utils._device import _device_constructors

DEVICE = torch.device(os.environ.get("TEST_DEVICE", "cpu"))
TESTS = str(Path(__file__).parents[1])


class TensorsOfTests(TorchFunctionMode):  # type: ignore[misc]
    """Puts what tests make on the device; random numbers are the CPU's, for they must not depend on it."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        made = func(*args, **kwargs)
        if func not in _device_constructors() or "device" in kwargs:
            return made
        return made.to(DEVICE) if sys._getframe(1).f_code.co_filename.startswith(TESTS) else made


def use() -> None:
    """From now on, if the device is not the CPU."""
    if DEVICE.type != "cpu":
        TensorsOfTests().__enter__()
