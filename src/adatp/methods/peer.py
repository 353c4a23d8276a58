"""What the peers share: one parameter solved for the FLOPs target; visual tokens and their positions.

A peer says before which layers it drops (``cuts``), how many tokens its one free parameter leaves in each
layer (``counts``), and which ones (``rule``).
"""

from __future__ import annotations

import math
from abc import abstractmethod
from bisect import bisect_right
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from itertools import islice
from typing import Any, ClassVar

import torch
from torch import Tensor

from adatp.budget import BudgetError, Schedule, check_target, everything, fit, nearest_cut
from adatp.flops import DecoderShape, prefill_flops
from adatp.layout import VideoLayout
from adatp.methods.base import Method, Prefill
from adatp.methods.similarity import top
from adatp.plan import Selection

Rule = Callable[[int, Tensor, Tensor | None, Tensor], tuple[Tensor, Tensor | None]]
"""One sample's choice at a cut, in visual tokens alone: (layer, token, scores, hidden) -> (kept, into).

token: (n,) numbers of the visual tokens still alive, ascending, out of ``layout.index``.
scores: (n,) float32 attention they received in the layer before, None if it was not scored.
hidden: (n, d) their states.
kept: (k,) rows of ``token`` that go on, ascending.
into: (n,) index in ``kept`` of the token each is averaged into, -1 dropped; None drops all others.
"""


@dataclass(frozen=True)
class Peer(Method):
    """Base of the methods that AdaTP is compared with, all of them at equal FLOPs.

    Attributes:
        flops: real FLOPs of the decoder's prefill, scoring included, as a fraction of vanilla, in (0, 1]; met
            from below. 1.0 keeps everything.
    """

    max_queries: ClassVar[int] = 1
    """At most this many of the prompt's last text tokens score."""

    flops: float = 0.273

    def __post_init__(self) -> None:
        check_target(self.flops)

    def cuts(self, shape: DecoderShape) -> tuple[int, ...]:
        """The layers before which tokens are dropped, ascending."""
        return (0,)

    def counts(self, shape: DecoderShape, visual: int, x: int) -> Sequence[int]:
        """Visual tokens that each layer processes if the free parameter is ``x``, of 1 .. ``visual``."""
        (cut,) = self.cuts(shape)
        return [visual] * cut + [x] * (shape.layers - cut)

    @abstractmethod
    def rule(self, prefill: Prefill, sample: int, schedule: Schedule) -> Rule:
        """Which tokens of one sample to keep."""

    def scored_layers(self, shape: DecoderShape) -> Iterable[int]:
        """The layer in front of each cut; in front of the first layer there is none."""
        if self.flops == 1:
            return ()
        behind = [cut for cut in self.cuts(shape) if cut]
        if lacking := [cut for cut in behind if cut not in shape.cut_layers]:
            raise BudgetError(
                f"tokens can't be dropped before layers {lacking}: the decoder has {shape.layers}, and only "
                "those behind full attention have scores to drop by"
            )
        return tuple(cut - 1 for cut in behind)

    def schedule(self, shape: DecoderShape, *, visual: int, other: int, question: int) -> Schedule:
        """See ``Method.schedule``."""
        if self.flops == 1 or not visual:
            return everything(shape, visual=visual, other=other)
        scored = self.scored_layers(shape)
        return fit(
            shape,
            visual=visual,
            other=other,
            target=self.flops,
            counts=lambda x: self.counts(shape, visual, x),
            most=visual,
            queries=min(self.max_queries, question),
            scored=scored,
        )

    def schedule_of(self, shape: DecoderShape, layout: VideoLayout) -> Schedule:
        """The same with the sample's frames known."""
        visual, question = len(layout.index), len(layout.question)
        return self.schedule(shape, visual=visual, other=len(layout.real) - visual, question=question)

    def plan(self, prefill: Prefill) -> PeerPlan | None:
        """Decide on every sample by itself, so that a batch equals its single runs."""
        return None if self.flops == 1 else PeerPlan(self, prefill)


class PeerPlan:
    """One prefill of a peer (see ``adatp.plan.Plan``)."""

    def __init__(self, method: Peer, prefill: Prefill) -> None:
        self.layouts = prefill.layouts
        self.real: Sequence[Tensor] = [layout.real for layout in self.layouts]
        self.queries: Sequence[Tensor] = [layout.question[-method.max_queries :] for layout in self.layouts]
        self.cuts = frozenset(method.cuts(prefill.shape))
        self.scored = frozenset(method.scored_layers(prefill.shape))
        self.schedules: list[Schedule | None] = []
        self.rules: list[Rule | None] = []
        # Of each sample's visual tokens still alive their numbers, and their rows among all that is alive.
        self.token: list[Tensor] = []
        self.row: list[Tensor] = []
        for sample, layout in enumerate(self.layouts):
            visual = len(layout.index)
            schedule = rule = None
            if visual:
                schedule = method.schedule_of(prefill.shape, layout)
                rule = method.rule(prefill, sample, schedule)
            self.schedules.append(schedule)
            self.rules.append(rule)
            self.token.append(torch.arange(visual, device=layout.index.device))
            self.row.append(torch.searchsorted(layout.real, layout.index))

    def select(
        self, layer: int, sample: int, alive: Tensor, scores: Tensor | None, hidden: Tensor
    ) -> Selection:
        """The tokens of one sample that go on to ``layer``."""
        rule = self.rules[sample]
        if rule is None:
            return Selection(alive)
        token, row = self.token[sample], self.row[sample]
        kept, into = rule(
            layer, token, None if scores is None else scores[row], hidden[row.to(hidden.device)]
        )
        kept = kept.to(row.device)
        stays = torch.ones_like(alive, dtype=torch.bool)
        stays.index_fill_(0, row, False).index_fill_(0, row[kept], True)
        number = stays.cumsum(0) - 1
        on = alive[stays.argsort(descending=True, stable=True)[: len(alive) - len(row) + len(kept)]]
        self.token[sample], self.row[sample] = token[kept], number[row[kept]]
        if into is None:
            return Selection(on)
        into = into.to(row.device)
        number[row] = self.row[sample][into.clamp(min=0)].where(into >= 0, -1)
        return Selection(on, number)

    def notes(self) -> list[dict[str, Any]]:
        """The schedule of each sample."""
        return [
            {} if schedule is None else {"schedule": list(schedule.visual)} for schedule in self.schedules
        ]


def by_attention(schedule: Schedule) -> Rule:
    """The rule that keeps the tokens of the highest scores, whatever frame they are in."""

    def choose(
        layer: int, token: Tensor, scores: Tensor | None, hidden: Tensor
    ) -> tuple[Tensor, Tensor | None]:
        assert scores is not None
        return top(scores, schedule.visual[layer]), None

    return choose


class Spending:
    """What one sample's prefill costs when counts come out only as the layers run.

    Attributes:
        counts: visual tokens of each layer so far; to be appended to.
    """

    def __init__(self, method: Peer, shape: DecoderShape, layout: VideoLayout, schedule: Schedule) -> None:
        self.shape = shape
        self.other = len(layout.real) - len(layout.index)
        self.limit = math.floor(Fraction(method.flops) * schedule.vanilla_flops)
        self.scored = dict.fromkeys(
            method.scored_layers(shape), min(method.max_queries, len(layout.question))
        )
        self.counts: list[int] = []

    def room(self, n: int) -> int:
        """How many of n visual tokens the layers from here on can process, if none drops any more."""
        rest = self.shape.layers - len(self.counts)
        return bisect_right(range(n + 1), self.limit, key=lambda k: self.cost([k] * rest)) - 1

    def can_wait(self, n: int, until: int) -> bool:
        """Whether all layers before ``until`` may process n visual tokens, and the target still be met."""
        return self.cost([n] * (until - len(self.counts)) + [1] * (self.shape.layers - until)) <= self.limit

    def cost(self, rest: list[int]) -> int:
        """FLOPs of the prefill if the layers from here on process so many visual tokens."""
        return prefill_flops(self.shape, [count + self.other for count in self.counts + rest], self.scored)


def scaled(layer: int, of: int, shape: DecoderShape) -> int:
    """Layer ``layer`` of a decoder of ``of`` layers, in proportion in another, or the nearest that can."""
    return nearest_cut(shape, round(layer * shape.layers / of))


def by_frame(layout: VideoLayout, device: torch.device) -> list[list[Tensor]]:
    """The numbers of each frame's visual tokens, (n,) int64, frame by frame of each video."""
    numbers = torch.arange(len(layout.index), device=device)
    frames = iter(torch.split(numbers, layout.tokens_by_frame.tolist()))
    return [list(islice(frames, grid[0])) for grid in layout.grids]


def by_video(layout: VideoLayout, values: Tensor) -> list[Tensor]:
    """Values (n, ...) of all the visual tokens of whole frames as (frames, positions, ...) of each video."""
    sizes = [frames * rows * columns for frames, rows, columns in layout.grids]
    return [
        part.view(grid[0], -1, *part.shape[1:])
        for part, grid in zip(torch.split(values, sizes), layout.grids, strict=True)
    ]


def numbered(layout: VideoLayout, device: torch.device) -> list[Tensor]:
    """The number of each visual token of whole frames, (frames, positions) int64 of each video."""
    return by_video(layout, torch.arange(len(layout.index), device=device))
