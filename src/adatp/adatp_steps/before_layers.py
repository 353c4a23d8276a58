"""Chooses the visual tokens that a decoder reads: an exact number of them, from input embeddings alone.

Everything stays on the device of the embeddings. The number of segments is bounded by the number of frames,
and the budget is split by sorting. So no step waits for a GPU.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from adatp.adatp_steps.debias import segment_weights
from adatp.adatp_steps.early import novelty
from adatp.adatp_steps.segment import segment_frames


@dataclass(frozen=True)
class Thresholds:
    """Thresholds of similarity, and the temperature of relevance.

    Attributes:
        tau_s: neighbouring frames whose pooled embeddings have at least this cosine share a segment.
        tau_d: tokens of one spatial position and segment with at least this cosine are duplicates.
        tau_r: temperature of the split between segments, see `segment_weights`.
    """

    tau_s: float = 0.95
    tau_d: float = 0.9
    tau_r: float = 1.0


def kept_tokens(tokens: int, keep: float) -> int:
    """Number of a video's tokens that stay: the share ``keep`` rounded down, and at least one.

    Args:
        tokens: visual tokens of the video.
        keep: share that stays, in [0, 1].
    """
    return min(tokens, max(1, math.floor(tokens * keep + 1e-6)))  # 100 x (1 - 0.9) is 9.999999999999998


def choose_before_layers(
    tokens: Tensor,
    keep: int,
    thresholds: Thresholds,
    relevance: Tensor | None = None,
    there: Tensor | None = None,
) -> Tensor:
    """Choose the tokens of one video that stay.

    Representatives (see `novelty`) come before near-duplicates. Segments share the budget in proportion to
    (number of representatives) x (weight by relevance). Each segment gets one token before any gets two.
    Within a segment, the most novel tokens stay.

    Args:
        tokens: (T, P, d) input embeddings of T frames with P positions each, in order of time.
        keep: how many stay, at most as many as there are.
        thresholds: see there.
        relevance: (T,) relevance of each frame to the question, in any scale; None: segments weigh the same.
        there: (T, P) bool, where there is a token; elsewhere ``tokens`` are zeros. None: everywhere.

    Returns:
        (keep,) int64 ascending: indices among the tokens that are there, counted frame by frame.

    Source: ours.
    """
    frames, places, _ = tokens.shape
    if there is None:
        there = tokens.new_ones(frames, places, dtype=torch.bool)
    segment = segment_frames(_pooled(tokens, there), thresholds.tau_s)
    new, representative = novelty(tokens, thresholds.tau_d, there, segment)
    demand = _demand(segment, representative, relevance, thresholds.tau_r)

    group = (2 * segment[:, None] + ~representative).flatten()  # (cells,) one group each for both kinds
    rank = _rank((new - 4 * ~there).flatten(), group)  # what is not there comes last in its group
    turn = (rank + 0.5) / demand[segment].repeat_interleave(places)
    # The order: the first token of each segment, the largest demand first. Then segments by turns, then
    # duplicates, then cells without a token.
    turn = turn.where(rank > 0, turn / (turn + 1) - 1)
    order = turn.argsort(stable=True)
    later = (~representative).long() + (~there).long()
    order = order[later.flatten()[order].argsort(stable=True)]
    chosen = order[:keep].sort().values
    return (there.flatten().cumsum(0) - 1)[chosen]


def _pooled(tokens: Tensor, there: Tensor) -> Tensor:
    """(T, d) float32: the mean of each frame's tokens."""
    total = tokens.sum(1, dtype=torch.float32)
    return total / there.sum(1, keepdim=True).clamp_min(1)


def _demand(segment: Tensor, representative: Tensor, relevance: Tensor | None, tau_r: float) -> Tensor:
    """(T,) float64, positive: the part of the budget that each segment asks for. There are at most T
    segments.
    """
    member = (segment == torch.arange(len(segment), device=segment.device)[:, None]).float()  # (segments, T)
    distinct = member @ representative.sum(1).float()
    pooled = None
    if relevance is not None:
        pooled = (member @ relevance.float()) / member.sum(1).clamp_min(1)
    weights = segment_weights(pooled, tau_r, distinct)
    return (distinct.double() * weights).clamp_min(1e-30)


def _rank(score: Tensor, group: Tensor) -> Tensor:
    """(n,) int64: the rank of each score in its group, from the highest. Among equal scores the earlier
    comes first.
    """
    best = (0 - score).argsort(stable=True)
    ordered, by_group = group[best].sort(stable=True)
    place = torch.arange(len(group), device=group.device) - torch.searchsorted(ordered, ordered)
    return torch.empty_like(place).scatter_(0, best[by_group], place)
