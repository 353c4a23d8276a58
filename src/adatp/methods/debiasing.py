"""The rule of AdaTP: chooses the tokens of one prompt that stay, cut by cut."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from adatp.adatp_steps.coverage import pick
from adatp.adatp_steps.debias import distinct_positions, segment_weights, select, select_overall
from adatp.adatp_steps.merging import merge_targets
from adatp.adatp_steps.novelty import novelty, representatives
from adatp.adatp_steps.prior import time_of, without_place
from adatp.adatp_steps.ranking import both, by_chance
from adatp.adatp_steps.relevance import attention_relevance, pool_by_segment, reliability
from adatp.budget import Schedule
from adatp.methods.grouping import split_by_video, there_by_video
from adatp.methods.segments import segments_of
from adatp.methods.selection import allocate
from adatp.methods.token_plan import Choice, Cut
from adatp.prefill import Prefill

if TYPE_CHECKING:
    from adatp.methods.adatp import AdaTP


_NEW = 2
"""What a representative's score has more than its novelty, which is 2 at most."""


class Debiasing:
    """State of AdaTP for one prompt on its way through the layers.

    Counts by segment stay on the CPU, so that no cut waits for the GPU.
    """

    def __init__(self, method: AdaTP, prefill: Prefill, sample: int, schedule: Schedule) -> None:
        self.method, self.layout, self.schedule = method, prefill.layouts[sample], schedule
        layout = self.layout
        self.segment_of_frame = segments_of(prefill, sample, method.tau_s, method.segments)
        self.frame_relevance = prefill.relevance(sample) if method.global_debias else None
        self.relevance: Tensor | None = None
        if self.frame_relevance is not None:
            self.frame_relevance = self.frame_relevance.cpu()
            present = layout.tokens_by_frame.float() / torch.tensor(layout.positions_by_frame)
            self.relevance = pool_by_segment(self.frame_relevance, self.segment_of_frame, weight=present)
        self.segment = self.segment_of_frame.to(layout.frame.device)[layout.frame]
        self.position = layout.position
        # Shares follow the segment's tokens in the prompt (after the early stage, those that are no
        # duplicates). They do not follow the tokens still alive: tokens x weight at every cut would raise the
        # weights to the power of the number of cuts.
        self.sizes = torch.zeros(int(self.segment_of_frame[-1]) + 1, dtype=torch.int64)
        self.sizes.index_add_(0, self.segment_of_frame, layout.tokens_by_frame)
        self.weights = self._weights()
        self.live = self.sizes  # visual tokens of each segment still processed
        self.novelty: Tensor | None = None  # (visual,) once the embeddings have been read, if cuts rank by it
        self.extra = frozenset(method.extra_cuts(prefill.shape))
        self.scored: list[Tensor] = []  # of the layers before the first cut by scores

    def _weights(self) -> Tensor:
        """(S,) weight of a token of each segment."""
        weights = segment_weights(self.relevance, self.method.tau_r, self.sizes)
        if self.method.soften and self.frame_relevance is not None:
            weights = weights ** reliability(self.frame_relevance, self.segment_of_frame)
        return weights

    def __call__(self, cut: Cut) -> Choice:
        """Choose the tokens that stay at a cut."""
        if cut.layer == 0:
            return self._with_merging(cut, self._read(cut))
        assert cut.log_scores is not None
        if cut.layer in self.extra:
            self.scored.append(cut.log_scores)
            return torch.arange(len(cut.token), device=cut.token.device)
        ranking = self._ranking(cut, cut.log_scores)
        return self._with_merging(cut, self._choose(ranking, cut))

    def _with_merging(self, cut: Cut, kept: Tensor) -> Choice:
        """The tokens that stay, and what is averaged into them if merging is on."""
        if self.method.merge is None:
            return kept
        states = cut.states
        segment = self.segment[cut.token].to(states.device)
        return kept, merge_targets(states, segment, kept.to(states.device), self.method.merge)

    def _ranking(self, cut: Cut, log_scores: Tensor) -> Tensor:
        """(n,) ranking of tokens at a cut by scores, the higher the better."""
        method, token = self.method, cut.token
        if self.scored:  # nothing has been dropped since
            log_scores = torch.stack([*self.scored, log_scores]).mean(0)
            self.scored = []
        if method.prior == "video":
            layout = self.layout
            place = (layout.video * (int(layout.position.max()) + 1) + layout.position)[token]
            time = time_of(layout.frame[token], layout.frames)
            log_scores = without_place(log_scores, time.to(log_scores.device), place.to(log_scores.device))
        if method.ranking == "random":
            return by_chance(len(self.layout.index)).to(log_scores.device)[token]
        if method.ranking == "attention":
            return log_scores
        assert self.novelty is not None
        new = self.novelty[token].to(log_scores.device)
        return new if method.ranking == "novelty" else both(log_scores, new)

    def _read(self, cut: Cut) -> Tensor:
        """Compare the prompt's embeddings, and choose those that the decoder reads."""
        representative = self._representatives(cut.states)
        method = self.method
        if method.drops_early(self.schedule, len(cut.token)):
            return self._choose_early(cut, representative)
        if method.shares == "distinct":
            self.sizes = self._by_segment(representative)
        return torch.arange(len(cut.token), device=cut.token.device)

    def _choose_early(self, cut: Cut, representative: Tensor) -> Tensor:
        """Choose the tokens of the prompt that the first layer processes.

        Args:
            cut: before layer 0.
            representative: (n,) bool, see `representatives`.
        """
        distinct = self._by_segment(representative)
        there, self.sizes, keep = self.sizes, distinct, cut.keep
        most = distinct if self.method.adaptive else there
        if not self.method.global_debias:
            _, gain = self._picked(cut.states, max(self.layout.positions_by_frame))
            keep = min(keep, int(most.sum()))
            return self._choose_overall(gain, self.segment, self.position, keep, local=False)
        # One part of the budget is split evenly over the frames, the other by relevance and distinct content.
        even_part = self.method.even_part(self.schedule, self.layout.counts.visual)
        part = max(int(keep * even_part), min(keep, len(there)))
        even = allocate(there, torch.ones_like(self.weights), part, capacity=most)
        share = even + allocate(distinct, self.weights, keep - int(even.sum()), floor=0, capacity=most - even)
        self.live = share
        frames = self.segment_of_frame.bincount()
        places = max(self.layout.positions_by_frame)
        enough = self.layout.complete and not self.method.adaptive
        steps = int((-(-share // frames)).max()) if enough else places
        rank, gain = self._picked(cut.states, steps)
        # The frames of a segment get as many tokens each, and one more where the next token gains most.
        score = gain.double() / (1 + gain.amax()) - rank
        if self.method.adaptive:  # representatives alone have room
            score = score.where(representative, score - places - 1)
        return select(score, self.segment, self.position, there, share, local=False)

    def _picked(self, visual: Tensor, steps: int) -> tuple[Tensor, Tensor]:
        """(n,) the turn of each token in its frame, and what it gains (see `pick`)."""
        found = [pick(tokens, there, min(steps, there.shape[1])) for tokens, there in self._videos(visual)]
        rank, gain = (torch.cat([each.flatten() for each in part]) for part in zip(*found, strict=True))
        cell, device = self.layout.cell, self.segment.device
        return rank.to(device)[cell], gain.to(device)[cell]

    def _representatives(self, visual: Tensor) -> Tensor:
        """(n,) bool, the tokens that are no near-duplicates. Remembers their novelty if cuts rank by it."""
        scores, found = [], []
        for tokens, there in self._scopes(visual):
            if self.method.ranking in ("novelty", "both"):
                new, representative = novelty(tokens, self.method.tau_d, there)
                scores.append((new + _NEW * representative).flatten())
            else:
                representative = representatives(tokens, self.method.tau_d, there)
            found.append(representative.flatten())
        cell, device = self.layout.cell, self.segment.device
        if scores:
            self.novelty = torch.cat(scores).to(device)[cell]
        return torch.cat(found).to(device)[cell]

    def _scopes(self, visual: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
        """As `_videos`, of each part of the prompt in which duplicates are looked for."""
        lengths = [grid[0] for grid in self.layout.grids]
        for video, segment in zip(
            self._videos(visual), torch.split(self.segment_of_frame, lengths), strict=True
        ):
            if self.method.duplicates == "video":
                yield video
            else:
                frames = (segment - segment[0]).bincount().tolist()
                yield from zip(*(torch.split(each, frames) for each in video), strict=True)

    def _videos(self, visual: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
        """Tokens (n, d) as (frames, positions, d) of each video, and where there is one, bool."""
        there = there_by_video(self.layout, visual.device)
        return zip(split_by_video(self.layout, visual), there, strict=True)

    def _by_segment(self, chosen: Tensor) -> Tensor:
        """(S,) how many of the chosen tokens, (n,) bool, each segment has."""
        counts = torch.zeros(len(self.sizes), dtype=torch.int64, device=self.segment.device)
        return counts.index_add_(0, self.segment, chosen.long()).cpu()  # the one wait for a GPU

    def _choose(self, scores: Tensor, cut: Cut) -> Tensor:
        """Choose the tokens that stay at a cut by scores (n,)."""
        method, keep = self.method, cut.keep
        segment, position = self.segment[cut.token], self.position[cut.token]
        if method.adaptive:
            capacity = distinct_positions(segment, position, len(self.sizes)).cpu()
        else:
            capacity = self.live
        if not method.global_debias:
            keep = min(keep, int(capacity.sum()))
            return self._choose_overall(scores, segment, position, keep, method.local_debias)
        weights = self.weights
        if method.relevance == "attention":
            assert cut.log_scores is not None
            # The scale of relevance does not matter. In this scale no value underflows.
            most = cut.log_scores.amax().clamp(min=torch.finfo(cut.log_scores.dtype).min)
            received = attention_relevance((cut.log_scores - most).exp(), segment, len(self.sizes)).cpu()
            weights = segment_weights(received, method.tau_r, self.sizes)
        there, self.live = self.live, allocate(self.sizes, weights, keep, capacity=capacity)
        return select(scores, segment, position, there, self.live, method.local_debias)

    def _choose_overall(
        self, scores: Tensor, segment: Tensor, position: Tensor, keep: int, local: bool
    ) -> Tensor:
        """Choose tokens with one budget for all segments."""
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
