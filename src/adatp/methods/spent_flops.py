"""FLOPs of a prefill whose token counts are only known once its layers have run."""

from __future__ import annotations

import math
from bisect import bisect_right
from fractions import Fraction

from adatp.budget import Schedule
from adatp.flops import DecoderShape, prefill_flops
from adatp.layout import PromptCounts
from adatp.methods.base import Method


class SpentFlops:
    """Cost of one sample's prefill when counts are only known as the layers run.

    Attributes:
        counts: visual tokens of each layer so far; the caller appends to it.
    """

    def __init__(self, method: Method, shape: DecoderShape, counts: PromptCounts, schedule: Schedule) -> None:
        self.shape = shape
        self.other, self.held = counts.other, counts.held_by(shape.layers)
        limit = math.floor(Fraction(method.flops or 1) * schedule.vanilla_flops)
        self.limit = max(limit, schedule.flops)  # above the target where that is out of reach
        self.scored = dict.fromkeys(method.scored_layers(shape), min(method.query_rows, counts.question))
        self.counts: list[int] = []

    def room(self, n: int) -> int:
        """How many of n visual tokens the remaining layers can process, if none of them drops any more."""
        rest = self.shape.layers - len(self.counts)
        return bisect_right(range(n + 1), self.limit, key=lambda k: self.cost([k] * rest)) - 1

    def can_wait(self, n: int, until: int) -> bool:
        """Whether all layers before ``until`` can process n visual tokens and the target is still met."""
        return self.cost([n] * (until - len(self.counts)) + [1] * (self.shape.layers - until)) <= self.limit

    def cost(self, rest: list[int]) -> int:
        """FLOPs of the prefill if the remaining layers process these numbers of visual tokens."""
        tokens = [count + self.other for count in self.counts + rest]
        return prefill_flops(self.shape, tokens, self.scored, self.held)
