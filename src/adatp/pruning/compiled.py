"""Runs a model as plain Python while it is being pruned, because compiled code ignores hooks."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import wraps
from types import MethodType
from typing import Any

import torch
from torch import nn


@contextmanager
def uncompiled(model: nn.Module, outer: nn.Module) -> Iterator[None]:
    """Keep all of a model's code uncompiled while the block runs.

    Compiled code that the model and its parts hold is taken out, and a warning says so. A wrapper that
    ``torch.compile(model)`` returned can't be found from the model. When it is called, its guards notice that
    the model's ``forward`` has changed, and the new one runs as plain Python.

    Args:
        model: the model whose hooks must run.
        outer: the caller's object: the model, or wrappers around it.
    """
    with ExitStack() as stack:
        found = False
        for module in dict.fromkeys([outer, *outer.modules(), *model.modules()]):
            found |= _plain_call(module, stack)
            found |= _plain_forward(module, stack)
        if found:
            warnings.warn("compiled code runs as plain Python while the model is being pruned", stacklevel=2)
        if "torch._dynamo" in sys.modules:  # otherwise nothing can have been compiled
            _disable(model, stack)
        yield


def _plain_call(module: nn.Module, stack: ExitStack) -> bool:
    """Take out the code that ``module.compile()`` has made."""
    compiled = vars(module).get("_compiled_call_impl")
    if compiled is not None:
        _replace(module, "_compiled_call_impl", None, stack)
    return compiled is not None


def _plain_forward(module: nn.Module, stack: ExitStack) -> bool:
    """Take out a ``forward`` that went through ``torch.compile``, also that of such a wrapper."""
    forward: Any = vars(module).get("forward", type(module).forward)
    plain = getattr(forward, "_torchdynamo_orig_callable", None)
    if plain is None or getattr(forward, "_torchdynamo_disable", False):
        return False
    bound = "forward" in vars(module) or hasattr(plain, "__self__")
    _replace(module, "forward", plain if bound else MethodType(plain, module), stack)
    return True


def _disable(model: nn.Module, stack: ExitStack) -> None:
    """Give the model its own ``forward`` that is never compiled."""
    own = vars(model).get("forward")
    function: Any = type(model).forward if own is None else own

    @wraps(function)
    def forward(self: nn.Module, *args: Any, **kwargs: Any) -> Any:
        return function(self, *args, **kwargs) if own is None else own(*args, **kwargs)

    plain: Any = torch.compiler.disable(forward)  # type: ignore[no-untyped-call]
    _replace(model, "forward", MethodType(plain, model), stack)


def _replace(module: nn.Module, name: str, value: Any, stack: ExitStack) -> None:
    """Give a module an attribute until the stack is closed."""
    attributes = vars(module)
    if name in attributes:
        stack.callback(attributes.__setitem__, name, attributes[name])
    else:
        stack.callback(attributes.pop, name, None)
    attributes[name] = value
