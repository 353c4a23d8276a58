"""What torch makes by default, and where, changes no choice of tokens."""

from __future__ import annotations

import functools
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

import adatp
from adatp import AdaTP
from adatp.methods import METHODS, FastVID, HoliTom, VisionZip
from families import LlavaOnevision, Prompt, VideoLlava, batch, build
from pretend_gpu import DEVICE, PretendedGPU

SOURCE = adatp.__file__.removesuffix("__init__.py")
OPTIONS: list[dict[str, Any]] = [
    {"ranking": "both", "early": "on", "shares": "distinct"},
    {"prior": "video", "soften": True, "merge": 0.5, "early": "off"},
    {"ranking": "random", "duplicates": "video"},
]
EVERY = [kind(flops=0.6) for kind in METHODS.values() if kind.flops is not None]
EVERY += [kind(flops=0.8, sink=0.1) for kind in (VisionZip, FastVID, HoliTom)]
EVERY += [AdaTP(flops=0.6, **option) for option in OPTIONS]
each_method = pytest.mark.parametrize("number", range(len(EVERY)), ids=lambda n: f"{n}-{EVERY[n].name}")


@contextmanager
def default(setting: torch.dtype | torch.device | str) -> Iterator[None]:
    """With another default type or device."""
    (torch.set_default_dtype if isinstance(setting, torch.dtype) else torch.set_default_device)(setting)
    try:
        yield
    finally:
        torch.set_default_dtype(torch.float32)
        torch.set_default_device(None)


class Made(TorchDispatchMode):
    """Notes the lines of ours that make tensors of a type."""

    def __init__(self, dtype: torch.dtype) -> None:
        super().__init__()
        self.dtype = dtype
        self.lines: set[str] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = func(*args, **(kwargs or {}))
        if any(isinstance(each, Tensor) and each.dtype == self.dtype for each in tree_leaves(made)):
            frame: Any = sys._getframe(1)
            while frame and not frame.f_code.co_filename.startswith(SOURCE):
                frame = frame.f_back
            if frame:
                self.lines.add(f"{frame.f_code.co_filename}:{frame.f_lineno}")
        return made


@functools.cache
def prepared(family: Any) -> tuple[Any, dict[str, Tensor]]:
    return build(family), batch(family, [Prompt(frames=12, question=8)])


def kept(method: Any, model: Any, inputs: dict[str, Tensor]) -> list[list[int]]:
    with torch.no_grad(), method(model) as run:
        model(**inputs)
    return [layer[0].cpu().tolist() for layer in run.report.kept]


@functools.cache
def expected(number: int, family: Any = LlavaOnevision) -> list[list[int]]:
    return kept(EVERY[number], *prepared(family))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64], ids=str)
@each_method
def test_a_default_type(number: int, dtype: torch.dtype) -> None:
    """A sum of float64 is meant where we write it. Nothing of ours is of 16 bits in a float32 model."""
    model, inputs = prepared(LlavaOnevision)
    without, made = expected(number), Made(dtype)
    with default(dtype), made:
        assert kept(EVERY[number], model, inputs) == without
    assert dtype == torch.float64 or not made.lines


@each_method
def test_a_default_device_with_a_model_on_the_cpu(number: int) -> None:
    """Nothing that is made without a device's name reaches ``meta``, where there are no values."""
    model, inputs = prepared(LlavaOnevision)
    without = expected(number)
    with default("meta"):
        assert kept(EVERY[number], model, inputs) == without


@pytest.mark.parametrize("family", [LlavaOnevision, VideoLlava], ids=lambda family: family.name)
def test_the_models_own_device_as_the_default(family: Any) -> None:
    model, inputs = build(family), batch(family, [Prompt(frames=12, question=8)])
    with PretendedGPU(watched=SOURCE) as gpu:
        gpu.put(model)
        with default(DEVICE):
            found = kept(EVERY[0], model, gpu.put(inputs))
    assert found == expected(0, family)
