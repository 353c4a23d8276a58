"""How far rounding alone takes a family's numbers: what limits of comparisons are multiples of."""

from __future__ import annotations

import copy
import sys
from dataclasses import dataclass
from functools import cache
from typing import Any

import pytest
import torch
from torch import Tensor

from adatp.models import decoder_of
from families import batch, build, make
from suite import EQUAL, RAGGED

FACTOR = 20
"""Limits of float32 are so many times the noise: docs/decisions/0014 says what is measured on which
machines.
"""
FLOAT64 = 1e-10
"""In float64 noise is about 1e-14, and errors of the code are not: no reference is needed."""


@dataclass(frozen=True)
class Noise:
    """Largest differences between vanilla in float32 and the same weights in float64, on this machine.

    Attributes:
        logits: of all tokens of the prompts in ``suite.EQUAL`` and ``suite.RAGGED``.
        attention: of the mean attention of the last five tokens, in all layers that have attention.
        states: of the hidden states before and after every layer.
    """

    logits: float
    attention: float
    states: float


def limit(family: Any, dtype: torch.dtype = torch.float32, of: str = "logits") -> float:
    """By how much the results of equivalent computations may differ.

    Args:
        family: of ``families``.
        dtype: float32 or float64.
        of: a field of ``Noise``: what is compared.
    """
    if dtype == torch.float64:
        return FLOAT64
    found: float = getattr(noise(family), of)
    return FACTOR * max(found, torch.finfo(dtype).eps)


@cache
@torch.no_grad()
def noise(family: Any) -> Noise:
    """The noise of a family's small model."""
    model = make(family, "eager")
    twin = widened(model)
    logits, attention, states = [0.0], [0.0], [0.0]
    asked = {"output_attentions": True, "output_hidden_states": True}
    # No padding: eager attention in transformers makes NaN of it in float64.
    for prompts in (EQUAL, *([prompt] for prompt in RAGGED)):
        inputs = batch(family, prompts)
        rounded = model(**inputs, **asked)
        exact = twin(**wide(inputs), **asked)
        logits.append(_error(rounded.logits, exact.logits))
        for ours, its in zip(rounded.attentions, exact.attentions, strict=True):
            attention.append(_error(ours[:, :, -5:].mean((1, 2)), its[:, :, -5:].mean((1, 2))))
        states += map(_error, rounded.hidden_states, exact.hidden_states)
    return Noise(max(logits), max(attention), max(states))


def _error(found: Tensor, expected: Tensor) -> float:
    return float((found - expected).abs().max())


def widened(model: Any, dtype: torch.dtype = torch.float64) -> Any:
    """A copy with the same weights in a wider precision."""
    twin = copy.deepcopy(model).to(dtype)
    if dtype == torch.float64:
        twin.set_experts_implementation("eager")  # the grouped kernel knows no such precision
    return twin


def wide(inputs: dict[str, Tensor], dtype: torch.dtype = torch.float64) -> dict[str, Tensor]:
    """Inputs in a wider precision, integers as they are."""
    return {name: part.to(dtype) if part.is_floating_point() else part for name, part in inputs.items()}


def no_float32_islands(family: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Transformers norms, softmaxes and updates states in float32 whatever the precision asked for."""
    modeling = sys.modules[type(decoder_of(build(family))).__module__]

    class Lifted:
        float = float32 = torch.float64

        def __getattr__(self, name: str) -> Any:
            return getattr(torch, name)

    def lifted(self: Tensor) -> Tensor:
        return self.double() if sys._getframe(1).f_globals is vars(modeling) else to_float(self)

    to_float = Tensor.float
    monkeypatch.setattr(modeling, "torch", Lifted())
    monkeypatch.setattr(Tensor, "float", lifted)
