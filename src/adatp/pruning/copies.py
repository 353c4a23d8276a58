"""Makes copies of a model that is being pruned equal to the model before pruning."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, cast

from torch import nn

_SET = ("forward", "get_compiled_call", "__deepcopy__")
"""Attributes that a context sets on the model itself."""


@contextmanager
def clean_copies(model: nn.Module) -> Iterator[None]:
    """While the block runs, ``copy.deepcopy`` of the model leaves out what a context sets on it.

    Hooks and taps handle copies themselves.

    Args:
        model: the model before anything is set.
    """
    before = {name: vars(model)[name] for name in _SET if name in vars(model)}

    def copied(memo: dict[int, Any]) -> nn.Module:
        state = {name: value for name, value in cast(Any, model).__getstate__().items() if name not in _SET}
        twin = type(model).__new__(type(model))
        memo[id(model)] = twin  # in the copy, references to the model become references to its copy
        cast(Any, twin).__setstate__(copy.deepcopy({**state, **before}, memo))
        return twin

    vars(model)["__deepcopy__"] = copied
    try:
        yield
    finally:
        del vars(model)["__deepcopy__"]
        vars(model).update(before)
