"""Vanilla: prunes nothing, but measures and reports like every other method."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import ClassVar

from adatp.budget import Schedule, everything
from adatp.flops import DecoderShape
from adatp.methods.base import Method, Prefill


@dataclass(frozen=True)
class Vanilla(Method):
    """The model as it is: the baseline of every comparison, through the same interface."""

    name: ClassVar[str] = "vanilla"

    def schedule(self, shape: DecoderShape, *, visual: int, other: int, question: int) -> Schedule:
        """Everything in every layer."""
        return everything(shape, visual=visual, other=other)

    def scored_layers(self, shape: DecoderShape) -> Iterable[int]:
        """None."""
        return ()

    def plan(self, prefill: Prefill) -> None:
        """Process every token."""
        return None
