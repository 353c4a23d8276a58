"""Vanilla: prunes nothing, but measures and reports like every other method."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

from adatp.methods.base import Method


@dataclass(frozen=True)
class Vanilla(Method):
    """The unpruned model: the baseline of every comparison, through the same interface."""

    name: ClassVar[str] = "vanilla"

    flops: None = field(default=None, init=False)
