"""AdaTP: attention-debiased visual token pruning (arXiv 2505.20100).

The paper's: segments, text relevance from the vision tower's partner, one representative a spatial position
within a segment, text-to-visual attention as the signal, layers 2 to N - 12. Ours, as the paper's rules are
not published: the geometric schedule solved for a FLOPs target, the split of the budget between segments,
which frame represents a position, and what happens with budget left over.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from adatp.adatp_steps.debias import allocate, distinct_positions, segment_weights, select
from adatp.adatp_steps.relevance import attention_relevance, pool_by_segment
from adatp.adatp_steps.segment import segment_frames
from adatp.budget import BudgetError, Schedule, check_range, default_range, solve
from adatp.flops import DecoderShape
from adatp.layout import VideoLayout
from adatp.methods.base import Method, Prefill

Relevance = Literal["auto", "siglip", "embedding", "attention", "none"]


@dataclass(frozen=True)
class AdaTP(Method):
    """Drop visual tokens by debiased attention, progressively, down to a FLOPs target.

    Attributes:
        flops: real FLOPs of the decoder's prefill, scoring included, as a fraction of vanilla, in (0, 1]. Met
            from below, within 1 %. 1.0 keeps everything.
        start: first layer before which tokens are dropped; None: 2 of 28 layers, others in proportion.
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

    def __post_init__(self) -> None:
        if not 0 < self.flops <= 1:
            raise BudgetError(f"flops is a fraction of vanilla, in (0, 1], not {self.flops}")
        if not -1 <= self.tau_s <= 1:
            raise ValueError(f"tau_s is a cosine, in [-1, 1], not {self.tau_s}")
        if not self.tau_r > 0:
            raise ValueError(f"tau_r must be above 0, not {self.tau_r}")
        if self.max_queries < 1:
            raise ValueError(f"max_queries must be at least 1, not {self.max_queries}")
        if self.relevance not in (kinds := Relevance.__args__):  # type: ignore[attr-defined]
            raise ValueError(f"relevance must be one of {', '.join(kinds)}, not {self.relevance!r}")

    def layer_range(self, layers: int) -> tuple[int, int]:
        """First and last of ``layers`` layers before which tokens are dropped.

        Raises:
            BudgetError: the decoder has no such layers.
        """
        start, end = default_range(layers)
        start, end = start if self.start is None else self.start, end if self.end is None else self.end
        check_range(layers, start, end)
        return start, end

    def scored_layers(self, layers: int) -> Iterable[int]:
        """The layer in front of each cut; none if nothing is to be dropped."""
        if self.flops == 1:
            return ()
        start, end = self.layer_range(layers)
        return range(start - 1, end)

    def schedule(self, shape: DecoderShape, *, visual: int, other: int, question: int) -> Schedule:
        """What each layer processes of one sample; known before anything runs.

        Args:
            shape: the decoder.
            visual: visual tokens of the prompt.
            other: its other tokens.
            question: those of them behind the video.

        Raises:
            BudgetError: the target is out of reach.
        """
        start, end = self.layer_range(shape.layers)
        queries = min(self.max_queries, question)
        return solve(
            shape, visual=visual, other=other, target=self.flops, start=start, end=end, queries=queries
        )

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
        self.scored = frozenset(layer - 1 for layer in self.cuts)

    def select(self, layer: int, sample: int, alive: Tensor, scores: Tensor | None) -> Tensor:
        """The tokens of one sample that go on to ``layer``."""
        assert scores is not None
        return self.samples[sample].select(layer, alive, scores)

    def notes(self) -> list[dict[str, Any]]:
        """Segment of each frame, relevance and weight of each segment, and the schedule."""
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
        self.cuts = [layer for layer in range(1, len(kept)) if kept[layer] < kept[layer - 1]]
        self.segment_of_frame = _segments(prefill.frame_features(number), layout, method.tau_s)
        frame_relevance = prefill.relevance(number) if method.global_debias else None
        self.relevance: Tensor | None = None
        if frame_relevance is not None:
            self.relevance = pool_by_segment(frame_relevance, self.segment_of_frame).cpu()
        self.segment = self.segment_of_frame[layout.frame]
        self.position = layout.position
        # Shares follow a segment's tokens in the prompt: following those still alive, as in proportion to
        # tokens x weight at every cut, would raise the weights to the power of the number of cuts.
        self.sizes = self.segment.bincount().cpu()
        self.weights = segment_weights(self.relevance, method.tau_r, self.sizes)
        self.live = self.sizes
        self.token_at = torch.full((layout.length,), -1, device=layout.index.device)
        self.token_at[layout.index] = torch.arange(len(layout.index), device=layout.index.device)

    def select(self, layer: int, alive: Tensor, scores: Tensor) -> Tensor:
        if layer not in self.cuts:
            return alive
        token = self.token_at[alive]
        visual = token >= 0
        token, keep = token[visual], self.schedule.visual[layer]
        chosen = self._choose(scores[visual], self.segment[token], self.position[token], keep)
        stays = ~visual
        stays[visual.nonzero().squeeze(1)[chosen]] = True
        return alive[stays]

    def _choose(self, scores: Tensor, segment: Tensor, position: Tensor, keep: int) -> Tensor:
        method = self.method
        if method.adaptive:
            capacity = distinct_positions(segment, position, len(self.sizes)).cpu()
        else:
            capacity = self.live
        if not method.global_debias:
            # One pool of tokens; a position is still a position of its own segment.
            pool = torch.zeros_like(segment)
            spot = segment * (int(self.position.max()) + 1) + position
            share = torch.tensor([min(keep, int(capacity.sum()))])
            chosen = select(scores, pool, spot, share, method.local_debias)
            self.live = segment[chosen].bincount(minlength=len(self.sizes)).cpu()
            return chosen
        weights = self.weights
        if method.relevance == "attention":
            received = attention_relevance(scores, segment).cpu()
            received = F.pad(received, (0, len(self.sizes) - len(received)))
            weights = segment_weights(received, method.tau_r, self.sizes)
        self.live = allocate(self.sizes, weights, keep, capacity=capacity)
        return select(scores, segment, position, self.live, method.local_debias)

    def notes(self) -> dict[str, Any]:
        if not len(self.layout.index):
            return {}
        return {
            "segments": self.segment_of_frame.tolist(),
            "segment_relevance": None if self.relevance is None else self.relevance.tolist(),
            "segment_weights": self.weights.tolist(),
            "schedule": list(self.schedule.visual),
            "queries": min(self.method.max_queries, len(self.layout.question)),
        }


def _segments(features: Tensor, layout: VideoLayout, tau_s: float) -> Tensor:
    """(frames,) segment of each frame; no segment spans two videos."""
    first, parts = 0, []
    for video in torch.split(features, [grid[0] for grid in layout.grids]):
        parts.append(segment_frames(video, tau_s) + first)
        first = int(parts[-1][-1]) + 1
    return torch.cat(parts)
