"""AdaTP: attention-debiased visual token pruning (arXiv 2505.20100).

The paper's: segments, text relevance from the vision tower's partner, one representative a spatial position
within a segment, text-to-visual attention as the signal, layers 2 to N - 12. Ours, as the paper's rules are
not published: the geometric schedule solved for a FLOPs target, the split of the budget between segments,
which frame represents a position, and what happens with budget left over; and, beyond the paper, the early
stage for targets that the decoder's own cuts cannot reach well.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, get_args

import torch
from torch import Tensor

from adatp.adatp_steps.debias import allocate, distinct_positions, segment_weights, select
from adatp.adatp_steps.early import novelty
from adatp.adatp_steps.relevance import attention_relevance, pool_by_segment
from adatp.adatp_steps.segment import segment_frames
from adatp.budget import BudgetError, Schedule, cuts_between, default_range, solve, solve_early
from adatp.flops import DecoderShape
from adatp.methods.base import Method, Prefill
from adatp.plan import Selection

Relevance = Literal["auto", "siglip", "embedding", "attention", "none"]
Early = Literal["auto", "on", "off"]

# `auto` drops early where the decoder's cuts alone would leave fewer than this share of the visual tokens.
_SCARCE = 0.15
# Share of the tokens left by the early stage that the decoder's cuts leave, about.
_SURVIVE = 0.5


@dataclass(frozen=True)
class AdaTP(Method):
    """Drop visual tokens by debiased attention, progressively, down to a FLOPs target.

    Attributes:
        flops: real FLOPs of the decoder's prefill, scoring included, as a fraction of vanilla, in (0, 1]. Met
            from below, within 1 %. 1.0 keeps everything.
        start: first layer before which tokens are dropped; None: 2 of 28 layers, others in proportion. Where
            some layers have linear attention or a window, tokens are dropped behind the others alone.
        end: last such layer; None: 16 of 28 (the paper's N - 12), others in proportion.
        tau_s: neighbouring frames whose pooled tower features have at least this cosine share a segment.
        tau_r: temperature of the split between segments: lower gives relevant segments more, ``math.inf``
            ignores relevance.
        global_debias: split the budget between segments before attention is looked at.
        local_debias: within a segment prefer each position's best frame over a position's second best.
        adaptive: keep no more than one representative a position and segment, even if the budget has room:
            FLOPs come out lower on redundant videos.
        relevance: what tells relevant segments. ``siglip``: the tower's partner text encoder; ``embedding``:
            words against visual tokens in the decoder's input space; ``attention``: the mass that a segment
            receives in the layer scored last; ``none``: all alike; ``auto``: siglip if the partner is at hand
            without a download, else embedding.
        max_queries: at most this many of the prompt's last text tokens score.
        early: whether near-duplicate and irrelevant tokens are dropped before the decoder's first layer, as
            far as the target asks for it. ``auto``: where the decoder's cuts alone would leave fewer than
            15 % of the visual tokens, or cannot reach the target.
        tau_d: tokens of one spatial position and segment whose projected features have at least this cosine
            are duplicates in the early stage.
        reuse_frames: the vision tower does not encode a frame none of whose patches differs from the last
            encoded frame's by more than this (mean absolute difference of pixels, in the processor's
            normalised units); it takes that one's features. 0: only identical frames; None: every frame is
            encoded. For towers that look at each frame by itself (LLaVA-OneVision's).
    """

    name: ClassVar[str] = "adatp"

    flops: float = 0.273
    start: int | None = None
    end: int | None = None
    tau_s: float = 0.95
    tau_r: float = 1.0
    global_debias: bool = True
    local_debias: bool = True
    adaptive: bool = False
    relevance: Relevance = "auto"
    max_queries: int = 32
    early: Early = "auto"
    tau_d: float = 0.9
    reuse_frames: float | None = None

    def __post_init__(self) -> None:
        if not 0 < self.flops <= 1:
            raise BudgetError(f"flops is a fraction of vanilla, in (0, 1], not {self.flops}")
        for name in ("tau_s", "tau_d"):
            if not -1 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} is a cosine, in [-1, 1], not {getattr(self, name)}")
        if not self.tau_r > 0:
            raise ValueError(f"tau_r must be above 0, not {self.tau_r}")
        if self.max_queries < 1:
            raise ValueError(f"max_queries must be at least 1, not {self.max_queries}")
        if self.reuse_frames is not None and not self.reuse_frames >= 0:
            raise ValueError(f"reuse_frames is a difference of pixels, at least 0, not {self.reuse_frames}")
        for name, kinds in (("relevance", get_args(Relevance)), ("early", get_args(Early))):
            if getattr(self, name) not in kinds:
                raise ValueError(f"{name} must be one of {', '.join(kinds)}, not {getattr(self, name)!r}")

    def layer_range(self, shape: DecoderShape) -> tuple[int, int]:
        """First and last layer before which tokens may be dropped; between them, before those that follow
        full attention.
        """
        start, end = default_range(shape.layers)
        return start if self.start is None else self.start, end if self.end is None else self.end

    def scored_layers(self, shape: DecoderShape) -> Iterable[int]:
        """The layer in front of each cut; none if nothing is to be dropped."""
        if self.flops == 1:
            return ()
        return [cut - 1 for cut in cuts_between(shape, *self.layer_range(shape))]

    def schedule(self, shape: DecoderShape, *, visual: int, other: int, question: int) -> Schedule:
        """See ``Method.schedule``."""
        start, end = self.layer_range(shape)
        prompt = {"visual": visual, "other": other, "queries": min(self.max_queries, question)}
        layers = {"start": start, "end": end}
        if self.early != "on":
            try:
                late = solve(shape, target=self.flops, **prompt, **layers)
                if self.early == "off" or late.visual[-1] >= _SCARCE * visual:
                    return late
            except BudgetError:
                if self.early == "off":
                    raise
        return solve_early(shape, target=self.flops, **prompt, **layers, survive=_SURVIVE)

    def plan(self, prefill: Prefill) -> AdaTPPlan | None:
        """Solve the budget of every sample on its own, so that a batch equals its single runs."""
        if self.flops == 1:
            return None
        return AdaTPPlan(self, [_Sample(self, prefill, b) for b in range(len(prefill.layouts))])


class AdaTPPlan:
    """One prefill of AdaTP (see ``adatp.plan.Plan``)."""

    def __init__(self, method: AdaTP, samples: Sequence[_Sample]) -> None:
        self.samples = samples
        self.real: Sequence[Tensor] = [sample.layout.real for sample in samples]
        self.queries: Sequence[Tensor] = [sample.layout.question[-method.max_queries :] for sample in samples]
        self.cuts = frozenset(layer for sample in samples for layer in sample.cuts)
        self.scored = frozenset(layer - 1 for layer in self.cuts if layer > 0)

    def select(
        self, layer: int, sample: int, alive: Tensor, scores: Tensor | None, hidden: Tensor
    ) -> Selection:
        """The tokens of one sample that go on to ``layer``."""
        return Selection(self.samples[sample].select(layer, alive, scores, hidden))

    def notes(self) -> list[dict[str, Any]]:
        """Segment and relevance of each frame, relevance and weight of each segment, and the schedule."""
        return [sample.notes() for sample in self.samples]


class _Sample:
    """What AdaTP knows of one sample."""

    def __init__(self, method: AdaTP, prefill: Prefill, number: int) -> None:
        self.method, self.layout = method, prefill.layouts[number]
        self.cuts: list[int] = []
        if not len(self.layout.index):
            return
        layout = self.layout
        visual = len(layout.index)
        self.schedule = method.schedule(
            prefill.shape, visual=visual, other=len(layout.real) - visual, question=len(layout.question)
        )
        kept = self.schedule.visual
        before = (visual, *kept)
        self.cuts = [layer for layer in range(len(kept)) if kept[layer] < before[layer]]
        # What is counted by segment stays on the host, so that a GPU is not waited for at every cut.
        self.segment_of_frame = segments_of(prefill, number, method.tau_s)
        self.frame_relevance = prefill.relevance(number) if method.global_debias else None
        self.relevance: Tensor | None = None
        if self.frame_relevance is not None:
            self.frame_relevance = self.frame_relevance.cpu()
            present = layout.tokens_by_frame / torch.tensor(layout.positions_by_frame)
            self.relevance = pool_by_segment(self.frame_relevance, self.segment_of_frame, weight=present)
        self.segment = self.segment_of_frame.to(layout.frame.device)[layout.frame]
        self.position = layout.position
        # Shares follow a segment's tokens in the prompt (behind the early stage, those of them that are no
        # duplicates): following those still alive, as in proportion to tokens x weight at every cut, would
        # raise the weights to the power of the number of cuts.
        self.sizes = torch.zeros(int(self.segment_of_frame[-1]) + 1, dtype=torch.int64)
        self.sizes.index_add_(0, self.segment_of_frame, layout.tokens_by_frame)
        self.weights = segment_weights(self.relevance, method.tau_r, self.sizes)
        self.live = self.sizes
        # Of the visual tokens still alive their numbers, and their rows among all that is alive.
        self.token = torch.arange(visual, device=layout.index.device)
        self.row = torch.searchsorted(layout.real, layout.index)
        is_text = torch.ones_like(layout.real).index_fill_(0, self.row, 0)
        self.text = layout.real[is_text.argsort(descending=True, stable=True)[: len(is_text) - visual]]

    def select(self, layer: int, alive: Tensor, scores: Tensor | None, hidden: Tensor) -> Tensor:
        if layer not in self.cuts:
            return alive
        keep = self.schedule.visual[layer]
        if layer == 0:
            chosen = self._choose_early(hidden[self.row.to(hidden.device)], keep)
        else:
            assert scores is not None
            chosen = self._choose(scores[self.row], self.segment[self.token], self.position[self.token], keep)
        self.token = self.token[chosen]
        visual = self.layout.index[self.token]
        alive = torch.cat([self.text, visual]).sort().values
        self.row = torch.searchsorted(alive, visual)
        return alive

    def _choose_early(self, visual: Tensor, keep: int) -> Tensor:
        """Of the prompt's visual tokens (n, d) those worth reading, by what is new in each segment."""
        layout, positions = self.layout, self.layout.positions_by_frame
        tokens = layout.by_cell(visual)
        there = layout.by_cell(torch.ones(len(visual), dtype=torch.bool, device=visual.device))
        scores, distinct, frame, first = [], [], 0, 0
        for count in self.segment_of_frame.bincount().tolist():
            shape = count, positions[frame]
            cells = slice(first, first + math.prod(shape))
            new, told_first = novelty(
                tokens[cells].view(*shape, -1), self.method.tau_d, there[cells].view(shape)
            )
            scores.append((new + 2 * told_first).flatten())  # novelty is at most 2: no duplicate comes first
            distinct.append(told_first.sum())
            frame, first = frame + count, cells.stop
        score = torch.cat(scores).to(self.segment.device)[layout.cell]
        there, self.sizes = self.sizes, torch.stack(distinct).cpu()
        # Duplicates only fill what budget is left when every segment has what is new.
        room = torch.zeros_like(there) if self.method.adaptive else there - self.sizes
        if not self.method.global_debias:
            share = torch.tensor([min(keep, int((self.sizes + room).sum()))])
            chosen = select(score, self.segment, self.position, there.sum()[None], share, local=False)
            self.live = self.segment[chosen].bincount(minlength=len(there)).cpu()
            return chosen
        share = allocate(self.sizes, self.weights, keep, capacity=self.sizes)
        share += allocate(self.sizes, self.weights, keep - int(share.sum()), floor=0, capacity=room)
        self.live = share
        return select(score, self.segment, self.position, there, share, local=False)

    def _choose(self, scores: Tensor, segment: Tensor, position: Tensor, keep: int) -> Tensor:
        method = self.method
        if method.adaptive:
            capacity = distinct_positions(segment, position, len(self.sizes)).cpu()
        else:
            capacity = self.live
        if not method.global_debias:
            share = torch.tensor([min(keep, int(capacity.sum()))])
            chosen = select(scores, segment, position, self.live.sum()[None], share, method.local_debias)
            self.live = segment[chosen].bincount(minlength=len(self.sizes)).cpu()
            return chosen
        weights = self.weights
        if method.relevance == "attention":
            received = attention_relevance(scores, segment, len(self.sizes)).cpu()
            weights = segment_weights(received, method.tau_r, self.sizes)
        there, self.live = self.live, allocate(self.sizes, weights, keep, capacity=capacity)
        return select(scores, segment, position, there, self.live, method.local_debias)

    def notes(self) -> dict[str, Any]:
        if not len(self.layout.index):
            return {}
        return {
            "segments": self.segment_of_frame.tolist(),
            "frame_relevance": None if self.frame_relevance is None else self.frame_relevance.tolist(),
            "segment_relevance": None if self.relevance is None else self.relevance.tolist(),
            "segment_weights": self.weights.tolist(),
            "schedule": list(self.schedule.visual),
            "early": 0 in self.cuts,
            "queries": min(self.method.max_queries, len(self.layout.question)),
        }


def segments_of(prefill: Prefill, sample: int, tau_s: float) -> Tensor:
    """(frames,) int64 segment of each frame of a sample, on the CPU; no segment spans two videos."""
    grids = prefill.layouts[sample].grids
    first, parts = 0, []
    for video in torch.split(prefill.frame_features(sample), [grid[0] for grid in grids]):
        parts.append(segment_frames(video, tau_s).cpu() + first)
        first = int(parts[-1][-1]) + 1
    return torch.cat(parts)
