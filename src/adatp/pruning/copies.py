"""Copies of a model that are made while it is being pruned: they are what the model was before."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, cast

from torch import nn

_SET = ("forward", "get_compiled_call", "__deepcopy__")
"""What a context sets on the model itself."""


@contextmanager
def clean_copies(model: nn.Module) -> Iterator[None]:
    """``copy.deepcopy`` of the model leaves out what a context sets on it while the block runs.

    Hooks and taps see to their copies themselves.

    Args:
        model: as it is before anything is set.
    """
    before = {name: vars(model)[name] for name in _SET if name in vars(model)}

    def copied(memo: dict[int, Any]) -> nn.Module:
        state = {name: value for name, value in cast(Any, model).__getstate__().items() if name not in _SET}
        twin = type(model).__new__(type(model))
        memo[id(model)] = twin  # what holds the model holds its copy in the copy
        cast(Any, twin).__setstate__(copy.deepcopy({**state, **before}, memo))
        return twin

    vars(model)["__deepcopy__"] = copied
    try:
        yield
    finally:
        del vars(model)["__deepcopy__"]
        vars(model).update(before)
