"""AdaTP: attention-debiased visual token pruning (arXiv 2505.20100).

The paper's: segments, text relevance from the vision tower's partner, one representative a spatial position
within a segment, text-to-visual attention as the signal, layers 2 to N - 12. Ours, as the paper's rules are
not published: the geometric schedule solved for a FLOPs target, the split of the budget between segments,
which frame represents a position, and what happens with budget left over; and, beyond the paper, the early
stage for targets that the decoder's own cuts cannot reach well.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, get_args

import torch
from torch import Tensor
from typing_extensions import override

from adatp.adatp_steps.debias import distinct_positions, segment_weights, select, select_overall
from adatp.adatp_steps.early import novelty
from adatp.adatp_steps.relevance import attention_relevance, pool_by_segment
from adatp.adatp_steps.segment import segment_frames
from adatp.budget import BudgetError, Schedule, cuts_between, default_range, solve, solve_early
from adatp.flops import DecoderShape
from adatp.layout import PromptCounts
from adatp.methods.base import Method
from adatp.methods.selection import allocate
from adatp.methods.token_plan import Cut, Rule
from adatp.prefill import Prefill

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
            some layers have linear attention or a window, tokens are dropped after the others alone.
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
            receives in the layer scored last; ``none``: all the same; ``auto``: siglip if the partner is at
            hand without a download, else embedding.
        max_queries: at most this many of the prompt's last text tokens score.
        early: whether near-duplicate and irrelevant tokens are dropped before the decoder's first layer, as
            far as the target asks for it. ``auto``: where the decoder's cuts alone would leave fewer than
            15 % of the visual tokens, or cannot reach the target.
        tau_d: tokens of one spatial position and segment whose projected features have at least this cosine
            are duplicates in the early stage.
        question_free: the video alone decides what stays: all tokens are dropped before the decoder's first
            layer, segments share the budget by what is distinct in each, and novelty ranks their tokens. For
            a cache that later questions go on with, as they see only what the first one left. Without
            relevance, attention and the cuts of ``start`` to ``end``.
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
    question_free: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("tau_s", "tau_d"):
            if not -1 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} is a cosine, in [-1, 1], not {getattr(self, name)}")
        if not self.tau_r > 0:
            raise ValueError(f"tau_r must be above 0, not {self.tau_r}")
        if self.max_queries < 1:
            raise ValueError(f"max_queries must be at least 1, not {self.max_queries}")
        for name, kinds in (("relevance", get_args(Relevance)), ("early", get_args(Early))):
            if getattr(self, name) not in kinds:
                raise ValueError(f"{name} must be one of {', '.join(kinds)}, not {getattr(self, name)!r}")
        if self.question_free:
            self._check_question_free()

    def _check_question_free(self) -> None:
        unused: dict[str, tuple[Any, ...]] = {
            "relevance": ("auto", "none"),
            "early": ("auto", "on"),
            "start": (None,),
            "end": (None,),
        }
        for name, fitting in unused.items():
            if (value := getattr(self, name)) not in fitting:
                raise ValueError(f"question_free=True does not go with {name}={value!r}")

    @property
    @override
    def query_rows(self) -> int:
        return self.max_queries

    @property
    @override
    def relevance_signal(self) -> str:
        return "none" if self.question_free else self.relevance

    def layer_range(self, shape: DecoderShape) -> tuple[int, int]:
        """First and last layer before which tokens may be dropped by scores."""
        start, end = default_range(shape.layers)
        return start if self.start is None else self.start, end if self.end is None else self.end

    def cuts(self, shape: DecoderShape) -> tuple[int, ...]:
        """The first layer for the early stage, then every layer of the range that follows full attention."""
        if self.question_free:
            return (0,)
        return 0, *cuts_between(shape, *self.layer_range(shape))

    def cuts_of(self, shape: DecoderShape, schedule: Schedule, visual: int) -> Iterable[int]:
        """Those before which the schedule drops something, or `adaptive` may in an early stage asked for."""
        before = (visual, *schedule.visual)
        cuts = {layer for layer, kept in enumerate(schedule.visual) if kept < before[layer]}
        return cuts | {0} if self.adaptive and self.early == "on" else cuts

    def schedule(self, shape: DecoderShape, counts: PromptCounts) -> Schedule:
        """Geometric decay over the cuts, after an early cut where the target asks for one."""
        if self.question_free:
            return super().schedule(shape, counts)
        start, end = self.layer_range(shape)
        queries = min(self.max_queries, counts.question)
        if self.early != "on":
            try:
                late = solve(shape, counts, target=self.flops, start=start, end=end, queries=queries)
                if self.early == "off" or late.visual[-1] >= _SCARCE * counts.visual:
                    return late
            except BudgetError:
                if self.early == "off":
                    raise
        return solve_early(
            shape, counts, target=self.flops, start=start, end=end, queries=queries, survive=_SURVIVE
        )

    def rule(self, prefill: Prefill, sample: int, schedule: Schedule) -> Rule:
        """Both debiasing rules, with the segments and their relevance of one prompt."""
        return _Debiasing(self, prefill, sample, schedule)


class _Debiasing:
    """What AdaTP knows of one prompt on its way through the layers.

    What is counted by segment stays on the CPU, so that a GPU is not waited for at every cut.
    """

    def __init__(self, method: AdaTP, prefill: Prefill, sample: int, schedule: Schedule) -> None:
        self.method, self.layout, self.schedule = method, prefill.layouts[sample], schedule
        layout = self.layout
        self.segment_of_frame = segments_of(prefill, sample, method.tau_s)
        self.frame_relevance = prefill.relevance(sample) if method.global_debias else None
        self.relevance: Tensor | None = None
        if self.frame_relevance is not None:
            self.frame_relevance = self.frame_relevance.cpu()
            present = layout.tokens_by_frame / torch.tensor(layout.positions_by_frame)
            self.relevance = pool_by_segment(self.frame_relevance, self.segment_of_frame, weight=present)
        self.segment = self.segment_of_frame.to(layout.frame.device)[layout.frame]
        self.position = layout.position
        # Shares follow a segment's tokens in the prompt (after the early stage, those of them that are no
        # duplicates): following those still alive, as in proportion to tokens x weight at every cut, would
        # raise the weights to the power of the number of cuts.
        self.sizes = torch.zeros(int(self.segment_of_frame[-1]) + 1, dtype=torch.int64)
        self.sizes.index_add_(0, self.segment_of_frame, layout.tokens_by_frame)
        self.weights = segment_weights(self.relevance, method.tau_r, self.sizes)
        self.live = self.sizes  # visual tokens of each segment still processed

    def __call__(self, cut: Cut) -> Tensor:
        if cut.layer == 0:
            return self._choose_early(cut.states, cut.keep)
        assert cut.log_scores is not None
        return self._choose(cut.log_scores, self.segment[cut.token], self.position[cut.token], cut.keep)

    def _choose_early(self, visual: Tensor, keep: int) -> Tensor:
        """Of the prompt's visual tokens (n, d) those worth reading, by what is new in each segment."""
        score, distinct = self._novelty(visual)
        there, self.sizes = self.sizes, distinct
        # Duplicates only fill what budget is left when every segment has what is new.
        room = torch.zeros_like(there) if self.method.adaptive else there - distinct
        if not self.method.global_debias:
            keep = min(keep, int((distinct + room).sum()))
            return self._choose_overall(score, self.segment, self.position, keep, local=False)
        share = allocate(distinct, self.weights, keep, capacity=distinct)
        share += allocate(distinct, self.weights, keep - int(share.sum()), floor=0, capacity=room)
        self.live = share
        return select(score, self.segment, self.position, there, share, local=False)

    def _novelty(self, visual: Tensor) -> tuple[Tensor, Tensor]:
        """The early stage's score of each token (n,), duplicates lowest; representatives by segment (S,)."""
        layout, positions = self.layout, self.layout.positions_by_frame
        tokens = layout.by_cell(visual)
        there = layout.by_cell(torch.ones(len(visual), dtype=torch.bool, device=visual.device))
        scores, distinct, frame, first = [], [], 0, 0
        for count in self.segment_of_frame.bincount().tolist():
            shape = count, positions[frame]
            cells = slice(first, first + math.prod(shape))
            new, representative = novelty(
                tokens[cells].view(*shape, -1), self.method.tau_d, there[cells].view(shape)
            )
            scores.append((new + 2 * representative).flatten())  # novelty is 2 at most
            distinct.append(representative.sum())
            frame, first = frame + count, cells.stop
        return torch.cat(scores).to(self.segment.device)[layout.cell], torch.stack(distinct).cpu()

    def _choose(self, log_scores: Tensor, segment: Tensor, position: Tensor, keep: int) -> Tensor:
        method = self.method
        if method.adaptive:
            capacity = distinct_positions(segment, position, len(self.sizes)).cpu()
        else:
            capacity = self.live
        if not method.global_debias:
            keep = min(keep, int(capacity.sum()))
            return self._choose_overall(log_scores, segment, position, keep, method.local_debias)
        weights = self.weights
        if method.relevance == "attention":
            # The scale of relevance does not matter: in this one nothing is too small for a number.
            mass = (log_scores - log_scores.amax().clamp(min=torch.finfo(log_scores.dtype).min)).exp()
            received = attention_relevance(mass, segment, len(self.sizes)).cpu()
            weights = segment_weights(received, method.tau_r, self.sizes)
        there, self.live = self.live, allocate(self.sizes, weights, keep, capacity=capacity)
        return select(log_scores, segment, position, there, self.live, method.local_debias)

    def _choose_overall(
        self, scores: Tensor, segment: Tensor, position: Tensor, keep: int, local: bool
    ) -> Tensor:
        """With one budget for all segments."""
        chosen = select_overall(scores, segment, position, keep, local)
        self.live = segment[chosen].bincount(minlength=len(self.sizes)).cpu()
        return chosen

    def notes(self) -> dict[str, Any]:
        """Segment and relevance of each frame, relevance and weight of each segment."""
        kept, asking = self.schedule.visual, len(self.layout.question)
        return {
            "segments": self.segment_of_frame.tolist(),
            "frame_relevance": None if self.frame_relevance is None else self.frame_relevance.tolist(),
            "segment_relevance": None if self.relevance is None else self.relevance.tolist(),
            "segment_weights": self.weights.tolist(),
            "early": kept[0] < len(self.layout.index),
            "queries": 0 if self.method.question_free else min(self.method.max_queries, asking),
        }


def segments_of(prefill: Prefill, sample: int, tau_s: float) -> Tensor:
    """(frames,) int64 segment of each frame of a sample, on the CPU; no segment spans two videos."""
    grids = prefill.layouts[sample].grids
    first, parts = 0, []
    for video in torch.split(prefill.frame_features(sample), [grid[0] for grid in grids]):
        parts.append(segment_frames(video, tau_s).cpu() + first)
        first = int(parts[-1][-1]) + 1
    return torch.cat(parts)
