"""A FLOPs target -> how many visual tokens each decoder layer processes."""

import math
from dataclasses import dataclass
from fractions import Fraction

from .flops import DecoderShape, prefill_flops

# Steps on from the bisected schedule within which a cheaper one (no scores where counts are equal) is sought.
_LOOKAHEAD = 64


class BudgetError(ValueError):
    """The target cannot be met, or makes no sense.

    Attributes:
        lowest: the lowest target that can be met, if that is what is wrong.
    """

    def __init__(self, message: str, lowest: float | None = None) -> None:
        super().__init__(message)
        self.lowest = lowest


@dataclass(frozen=True)
class Schedule:
    """What each layer processes, and what that costs.

    Attributes:
        visual: visual tokens that each layer processes, non-increasing, one count a layer.
        flops: real FLOPs of the decoder layers' prefill on all tokens, scoring included.
        vanilla_flops: the same without dropping or scoring.
    """

    visual: tuple[int, ...]
    flops: int
    vanilla_flops: int

    @property
    def ratio(self) -> float:
        """Flops as a fraction of vanilla_flops."""
        return self.flops / self.vanilla_flops


def default_range(layers: int) -> tuple[int, int]:
    """First and last layer before which tokens are dropped: (2, 16) of 28, others in proportion.

    Source: the paper's layers 2 to N - 12 at N = 28; the scaling is ours.
    """
    return max(1, round(2 * layers / 28)), round(16 * layers / 28)


def check_range(layers: int, start: int, end: int) -> None:
    """Refuse a range of layers that tokens can't be dropped before.

    Raises:
        BudgetError: unless 1 <= start <= end < layers; the layer before the first drop has to score.
    """
    if not 1 <= start <= end < layers:
        raise BudgetError(f"need 1 <= start <= end < {layers} layers, not start={start}, end={end}")


def lowest_ratio(shape: DecoderShape, *, visual: int, other: int, start: int, queries: int) -> float:
    """The lowest target that `solve` can meet, rounded up to 1e-4: one visual token from layer `start` on."""
    vanilla = prefill_flops(shape, [visual + other] * shape.layers)
    kept = [visual + other] * start + [min(1, visual) + other] * (shape.layers - start)
    lowest = min(vanilla, prefill_flops(shape, kept, {start - 1: queries}))
    return math.ceil(Fraction(lowest, vanilla) * 10_000) / 10_000


def solve(
    shape: DecoderShape, *, visual: int, other: int, target: float, start: int, end: int, queries: int
) -> Schedule:
    """The geometric schedule that spends as much of the target as it can, and never more.

    Layers before `start` process all tokens. Before each of layers start .. end visual tokens are dropped
    such that their number decays geometrically, down to one at least; later layers keep what `end` has. A
    drop before a layer costs `queries` rows of attention scores in the layer before it; where the count stays
    the same nothing is scored.

    The schedules from one token a layer to all tokens form a chain, each with one token more in one layer
    than the last one; the answer is the last within the target. Hence no layer keeps fewer tokens at a
    higher target.

    Args:
        shape: the decoder.
        visual: visual tokens of the prompt.
        other: its other tokens, never dropped.
        target: FLOPs of the prefill as a fraction of vanilla, in (0, 1]; 1 keeps everything.
        start: first layer before which tokens may be dropped, at least 1 (the layer before it scores).
        end: last such layer.
        queries: query rows scored at each drop.

    Raises:
        BudgetError: if an argument is out of range, or the target below what can be reached.

    Source: ours (the paper's schedule is not published).
    """
    if not 0 < target <= 1:
        raise BudgetError(f"the FLOPs target is a fraction of vanilla, in (0, 1], not {target}")
    check_range(shape.layers, start, end)
    if min(visual, other, queries) < 0 or visual + other == 0:
        raise BudgetError(f"bad token counts: visual={visual}, other={other}, queries={queries}")

    def layers(cut: list[int]) -> list[int]:
        return [visual] * start + cut + cut[-1:] * (shape.layers - 1 - end)

    def flops(cut: list[int], score_all: bool = False) -> int:
        n = layers(cut)
        scored = {
            layer - 1: queries for layer in range(start, end + 1) if score_all or n[layer] < n[layer - 1]
        }
        return prefill_flops(shape, [count + other for count in n], scored)

    cuts = end - start + 1
    vanilla = flops([visual] * cuts)
    if target == 1:
        return Schedule((visual,) * shape.layers, vanilla, vanilla)
    limit = math.floor(Fraction(target) * vanilla)
    if flops([1] * cuts) > limit:
        lowest = lowest_ratio(shape, visual=visual, other=other, start=start, queries=queries)
        raise BudgetError(
            f"{target:g} of vanilla FLOPs is out of reach, the lowest is {lowest:g} ({visual} visual and "
            f"{other} other tokens, layer {start} the first to drop): raise the target"
            f"{' or lower start' if start > 1 else ''}",
            lowest,
        )

    # With every cut scored, needed or not, FLOPs are monotone in the decay: bisect down to neighbours ...
    low, high = 0.0, 1.0
    while sum(_decayed(visual, high, cuts)) - sum(_decayed(visual, low, cuts)) > 1:
        middle = (low + high) / 2
        if middle in (low, high):
            break
        if flops(_decayed(visual, middle, cuts), score_all=True) <= limit:
            low = middle
        else:
            high = middle
    # ... and then look ahead for those that are within the target as some cuts need no scores.
    cut = best = _decayed(visual, low, cuts)
    for _ in range(_LOOKAHEAD):
        if cut[-1] == visual:
            break
        cut = _next(visual, cut)
        if flops(cut) <= limit:
            best = cut
    return Schedule(tuple(layers(best)), flops(best), vanilla)


def _decayed(visual: int, decay: float, cuts: int) -> list[int]:
    """Counts after each of the cuts: visual * decay^k rounded down, k = 1 .. cuts, one at least."""
    counts, exact = [], float(visual)
    for _ in range(cuts):
        exact *= decay
        counts.append(max(1, int(exact)))
    return counts


def _next(visual: int, counts: list[int]) -> list[int]:
    """The counts that follow as the decay rises: one token more at the cut where that happens first."""

    def log_decay(k: int) -> float:
        return math.log((counts[k] + 1) / visual) / (k + 1) if counts[k] < visual else math.inf

    first = min(range(len(counts)), key=log_decay)
    return [n + (k == first) for k, n in enumerate(counts)]
