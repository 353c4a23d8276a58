"""Turns a FLOPs target into the number of visual tokens that each decoder layer processes."""

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache

from adatp.errors import AdaTPError, SettingError
from adatp.flops import DecoderShape, prefill_flops
from adatp.layout import PromptCounts

# How many schedules above the bisected one are tried. Some are cheaper: equal counts need no scores.
_LOOKAHEAD = 64


class BudgetError(AdaTPError, ValueError):
    """The target can't be met, or makes no sense.

    Attributes:
        lowest: the lowest target that can be met, if the target was too low.
        least: the schedule that meets it.
        reason: what makes the target unreachable, in a few words; empty where nothing is out of reach.
    """

    def __init__(
        self, message: str, lowest: float | None = None, least: "Schedule | None" = None, reason: str = ""
    ) -> None:
        super().__init__(message)
        self.lowest, self.least, self.reason = lowest, least, reason


@dataclass(frozen=True)
class Schedule:
    """Number of visual tokens that each layer processes, and its cost.

    Attributes:
        visual: visual tokens that each layer processes, non-increasing, one count per layer.
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


def cuts_between(shape: DecoderShape, start: int, end: int, every: int = 1) -> tuple[int, ...]:
    """Layers in start .. end before which tokens can be dropped by scores: those after full attention.

    Args:
        shape: the decoder.
        start: first layer.
        end: last layer.
        every: use the first of these layers, and then every ``every``-th.

    Raises:
        BudgetError: unless 1 <= start <= end < layers and there is such a layer. The layer before a drop has
            to score.
    """
    if not 1 <= start <= end < shape.layers:
        raise BudgetError(f"need 1 <= start <= end < {shape.layers} layers, not start={start}, end={end}")
    cuts = tuple(layer for layer in shape.cut_layers if start <= layer <= end)
    if not cuts:
        raise BudgetError(
            f"none of layers {start} to {end} follows full attention, whose scores a drop needs; "
            f"layers that do: {', '.join(map(str, shape.cut_layers)) or 'none'}"
        )
    return cuts[::every]


def nearest_cut(shape: DecoderShape, layer: int) -> int:
    """The nearest layer before which tokens can be dropped by scores; of two, the earlier one.

    Raises:
        BudgetError: there is no such layer.
    """
    if not shape.cut_layers:
        raise BudgetError("none of the decoder's layers follows full attention, whose scores a drop needs")
    return min(shape.cut_layers, key=lambda cut: abs(cut - layer))


def check_scored_cut(layer: int | None) -> None:
    """Refuse a cut before layer 0, which has no earlier layer that could score. None: the method chooses.

    Raises:
        SettingError: the layer is below 1.
    """
    if layer is not None and layer < 1:
        raise SettingError(f"the layer before the cut has to score: layer is at least 1, not {layer}")


def scaled_cut(shape: DecoderShape, layer: int, of: int) -> int:
    """The cut that corresponds to ``layer`` of a decoder with ``of`` layers: the nearest in proportion.

    Raises:
        BudgetError: there is no layer to cut at.
    """
    return nearest_cut(shape, round(layer * shape.layers / of))


def everything(shape: DecoderShape, counts: PromptCounts) -> Schedule:
    """The schedule that keeps all of the prompt's tokens in all layers.

    Vanilla's FLOPs assume that nothing was pruned earlier. If an earlier prompt of the same cache was pruned,
    reading all of this one costs less.
    """
    tokens = [counts.tokens] * shape.layers
    spent = prefill_flops(shape, tokens, None, counts.held_by(shape.layers))
    return Schedule((counts.visual,) * shape.layers, spent, prefill_flops(shape, tokens, None, counts.past))


def constant(shape: DecoderShape, counts: PromptCounts, visual: int) -> Schedule:
    """The same number of visual tokens in all layers, without scoring."""
    flops = prefill_flops(shape, [visual + counts.other] * shape.layers, None, counts.held_by(shape.layers))
    return Schedule((visual,) * shape.layers, flops, everything(shape, counts).vanilla_flops)


def fit(
    shape: DecoderShape,
    counts: PromptCounts,
    *,
    target: float,
    layer_counts: Callable[[int], Sequence[int]],
    most: int,
    queries: int = 0,
    scored: Iterable[int] = (),
) -> Schedule:
    """Find the most generous schedule within the target. Schedules are numbered by how much they keep.

    Args:
        shape: the decoder.
        counts: the prompt's tokens; only the visual ones are dropped.
        target: FLOPs of the prefill as a fraction of vanilla, in (0, 1]; 1 keeps everything.
        layer_counts: x -> visual tokens that each layer processes; a higher x keeps no fewer in any layer.
        most: the highest x.
        queries: query rows scored in each of the scored layers.
        scored: layers whose attention is scored, whatever x is.

    Raises:
        BudgetError: an argument is out of range, or even ``layer_counts(1)`` is above the target.
    """
    check_target(target)
    full = everything(shape, counts)
    if target == 1:
        return full
    rows, held = dict.fromkeys(scored, queries), counts.held_by(shape.layers)

    def schedule(x: int) -> Schedule:
        kept = tuple(layer_counts(x))
        flops = prefill_flops(shape, [n + counts.other for n in kept], rows, held)
        return Schedule(kept, flops, full.vanilla_flops)

    limit = math.floor(Fraction(float(target)) * full.vanilla_flops)
    if (least := schedule(1)).flops > limit:
        raise out_of_reach(target, shape, counts, least)
    low, high = 1, most + 1
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if schedule(middle).flops <= limit else (low, middle)
    return schedule(low)


def check_target(target: float) -> None:
    """Refuse a target that is not a fraction of vanilla.

    Raises:
        BudgetError: unless 0 < target <= 1.
    """
    if not 0 < target <= 1:
        raise BudgetError(f"the FLOPs target is a fraction of vanilla, in (0, 1], not {target}")


def out_of_reach(target: float, shape: DecoderShape, counts: PromptCounts, least: Schedule) -> BudgetError:
    """The error that says that even the ``least`` schedule of a method exceeds the target."""
    first = next((layer for layer, n in enumerate(least.visual) if n < counts.visual), 0)
    least = min(least, everything(shape, counts), key=lambda schedule: schedule.flops)  # scores cost too
    exact = Fraction(least.flops, least.vanilla_flops) * 10_000
    lowest = math.ceil(exact) / 10_000
    if Fraction(lowest) * 10_000 < exact:  # four digits say it, and their nearest float is just below it
        lowest = (math.ceil(exact) + 1) / 10_000
    text = prefill_flops(shape, [counts.other] * shape.layers, None, counts.held_by(shape.layers))
    if text > Fraction(float(target)) * least.vanilla_flops:
        reason = f"{counts.other} of its {counts.tokens} tokens are text, which is never dropped"
    elif first:
        reason = f"layers 0 to {first - 1} read every visual token, and layer {first} is the first to drop"
    else:
        reason = f"at least {least.visual[-1]} of {counts.visual} visual tokens stay"
    return BudgetError(
        f"{target:g} of vanilla FLOPs is out of reach, the lowest is {lowest:g} ({counts.visual} visual "
        f"and {counts.other} other tokens, layer {first} the first to drop): raise the target"
        f"{' or drop earlier' if first else ''}",
        lowest,
        least,
        reason,
    )


# Cached: milliseconds of Python matter next to a prefill on a GPU, and prompts come in few lengths.
@lru_cache(maxsize=1024)
def solve(
    shape: DecoderShape,
    counts: PromptCounts,
    *,
    target: float,
    start: int,
    end: int,
    queries: int,
    first: int | None = None,
    extra: tuple[int, ...] = (),
    every: int = 1,
) -> Schedule:
    """The geometric schedule that spends as much of the target as possible without exceeding it.

    Layers before `start` process all tokens, or `first` of them. Cuts are the layers start .. end that follow
    full attention. Visual tokens are dropped before each cut so that their number decays geometrically, down
    to at least one. Later layers keep what `end` has. A drop costs `queries` rows of attention scores in the
    layer before it. A drop before layer 0 costs nothing. Where the count stays the same, nothing is scored.

    The schedules form a chain from one token per layer to all tokens. Each has one token more in one layer
    than the one before it. The answer is the last within the target. Hence no layer keeps fewer tokens at a
    higher target.

    Args:
        shape: the decoder.
        counts: the prompt's tokens; only the visual ones are dropped.
        target: FLOPs of the prefill as a fraction of vanilla, in (0, 1]; 1 keeps everything.
        start: first layer before which tokens may be dropped by scores, at least 1 (the layer before it
            scores).
        end: last such layer.
        queries: query rows scored at each drop.
        first: visual tokens that the first layer processes; None: all.
        extra: further layers that are scored if any is.
        every: tokens are dropped before every ``every``-th of the layers from `start` on.

    Raises:
        BudgetError: an argument is out of range, or the target is below what can be reached.

    Source: ours (the paper's schedule is not published).
    """
    check_target(target)
    cuts = cuts_between(shape, start, end, every)
    visual, other = counts.visual, counts.other
    if min(visual, other, queries) < 0 or visual + other == 0:
        raise BudgetError(f"bad token counts: visual={visual}, other={other}, queries={queries}")
    full = everything(shape, counts)
    if target == 1:
        return full
    read, held = visual if first is None else first, counts.held_by(shape.layers)

    def schedule(cut: list[int], score_all: bool = False) -> Schedule:
        n = _by_layer(read, cut, cuts, shape.layers)
        scored = {layer - 1: queries for layer in cuts if score_all or n[layer] < n[layer - 1]}
        scored.update(dict.fromkeys(extra if scored else (), queries))
        flops = prefill_flops(shape, [k + other for k in n], scored, held)
        return Schedule(tuple(n), flops, full.vanilla_flops)

    limit = math.floor(Fraction(float(target)) * full.vanilla_flops)
    if (least := schedule([min(1, read)] * len(cuts))).flops > limit:
        raise out_of_reach(target, shape, counts, least)

    # With every cut scored, needed or not, FLOPs are monotone in the decay: bisect down to neighbours ...
    low, high = 0.0, 1.0
    while sum(_decayed(read, high, len(cuts))) - sum(_decayed(read, low, len(cuts))) > 1:
        middle = (low + high) / 2
        if middle in (low, high):
            break
        if schedule(_decayed(read, middle, len(cuts)), score_all=True).flops <= limit:
            low = middle
        else:
            high = middle
    # ... then look at the next schedules: some are within the target because some of their cuts need no
    # scores.
    cut = _decayed(read, low, len(cuts))
    best = schedule(cut)
    for _ in range(_LOOKAHEAD):
        if cut[-1] == read:
            break
        cut = _next(read, cut)
        if (found := schedule(cut)).flops <= limit:
            best = found
    return best


@lru_cache(maxsize=1024)
def solve_early(
    shape: DecoderShape,
    counts: PromptCounts,
    *,
    target: float,
    start: int,
    end: int,
    queries: int,
    survive: float,
    extra: tuple[int, ...] = (),
    every: int = 1,
) -> Schedule:
    """The schedule of `solve` after a cut before the first layer.

    The first layer gets as many tokens as the target allows if the share `survive` of them is left after
    `end`. Then the decay is solved for the rest of the budget.

    Args:
        shape: the decoder.
        counts: the prompt's tokens; only the visual ones are dropped.
        target: FLOPs of the prefill as a fraction of vanilla, in (0, 1]; 1 keeps everything.
        start: first layer before which tokens may be dropped by scores.
        end: last such layer.
        queries: query rows scored at each such drop.
        survive: approximate share of the first layer's tokens that the last layer has, in (0, 1].
        extra: further layers that are scored if any is.
        every: tokens are dropped before every ``every``-th of the layers from `start` on.

    Raises:
        BudgetError: as `solve`; the lowest target is then that of a single visual token.

    Source: ours.
    """
    cuts = cuts_between(shape, start, end, every)

    def layer_counts(x: int) -> list[int]:
        return _by_layer(x, _decayed(x, survive ** (1 / len(cuts)), len(cuts)), cuts, shape.layers)

    try:
        found = fit(
            shape,
            counts,
            target=target,
            layer_counts=layer_counts,
            most=counts.visual,
            queries=queries,
            scored=[*extra, *(cut - 1 for cut in cuts)],
        ).visual[0]
    except BudgetError:  # one token needs no scores, so it may be within reach
        found = min(1, counts.visual)
    return solve(
        shape,
        counts,
        target=target,
        start=start,
        end=end,
        queries=queries,
        first=found,
        extra=extra,
        every=every,
    )


def _by_layer(first: int, counts: Sequence[int], cuts: Sequence[int], layers: int) -> list[int]:
    """Tokens that each layer processes: ``first``, and ``counts[k]`` from layer ``cuts[k]`` on."""
    n = [first] * cuts[0]
    for count, begin, end in zip(counts, cuts, (*cuts[1:], layers), strict=True):
        n += [count] * (end - begin)
    return n


def _decayed(visual: int, decay: float, cuts: int) -> list[int]:
    """Counts after each of the cuts: visual * decay^k rounded down, k = 1 .. cuts, at least one."""
    counts, exact = [], float(visual)
    for _ in range(cuts):
        exact *= decay
        counts.append(max(1, int(exact)))
    return counts


def _next(visual: int, counts: list[int]) -> list[int]:
    """The next counts as the decay rises: one token more at the cut where the count rises first."""

    def log_decay(k: int) -> float:
        return math.log((counts[k] + 1) / visual) / (k + 1) if counts[k] < visual else math.inf

    first = min(range(len(counts)), key=log_decay)
    return [n + (k == first) for k, n in enumerate(counts)]
