"""Chooses the visual tokens that a decoder reads: an exact number of them, from input embeddings alone.

Everything stays on the device of the embeddings. The number of segments is bounded by the number of frames,
and the budget is split by sorting. So no step waits for a GPU.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from adatp.adatp_steps.coverage import pick
from adatp.adatp_steps.debias import segment_weights
from adatp.adatp_steps.novelty import representatives
from adatp.adatp_steps.segment import segment_frames


@dataclass(frozen=True)
class Thresholds:
    """Thresholds of similarity, and the temperature of relevance.

    Attributes:
        tau_s: neighbouring frames whose pooled embeddings have at least this cosine share a segment.
        tau_d: tokens of one spatial position and segment with at least this cosine are duplicates.
        tau_r: temperature of the split between segments, see `segment_weights`.
        even: share of the budget that is split evenly over the frames.
    """

    tau_s: float = 0.95
    tau_d: float = 0.9
    tau_r: float = 1.0
    even: float = 0.5


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

    Within a frame, tokens come in the order of `pick`. Frames share the budget: one part evenly, the other in
    proportion to (number of `representatives` of the segment) x (weight by relevance), split
    between the segment's frames. Each segment gets one token, then each frame, before any gets two.

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
    if not keep:  # a small budget may leave nothing for one of several videos
        return torch.zeros(0, dtype=torch.int64, device=tokens.device)
    if there is None:
        there = tokens.new_ones(frames, places, dtype=torch.bool)
    segment = segment_frames(_pooled(tokens, there), thresholds.tau_s)
    representative = representatives(tokens, thresholds.tau_d, there, segment)
    demand = _demand(segment, representative, relevance, thresholds)
    rank, _ = pick(tokens, there, min(keep, places))
    turn = (rank.double() + 0.5) / demand[:, None]
    # The order: the first token of each segment, the largest demand first. Then that of each frame, then
    # frames by turns, then cells without a token.
    opens = F.pad(segment[1:] != segment[:-1], (1, 0), value=True)[:, None]
    turn = turn.where(rank > 0, turn / (turn + 1) - 1 - opens.long()).masked_fill(~there, torch.inf)
    chosen = turn.flatten().argsort(stable=True)[:keep].sort().values
    return (there.flatten().cumsum(0) - 1)[chosen]


def _pooled(tokens: Tensor, there: Tensor) -> Tensor:
    """(T, d) float32: the mean of each frame's tokens."""
    total = tokens.sum(1, dtype=torch.float32)
    return total / there.sum(1, keepdim=True).clamp_min(1)


def _demand(
    segment: Tensor, representative: Tensor, relevance: Tensor | None, thresholds: Thresholds
) -> Tensor:
    """(T,) float64, positive: the share of the budget that each frame asks for."""
    member = (segment == torch.arange(len(segment), device=segment.device)[:, None]).float()  # (segments, T)
    frames = member.sum(1)  # there are at most T segments: the last rows may be empty
    distinct = member @ representative.sum(1).float()
    pooled = None if relevance is None else (member @ relevance.float()) / frames.clamp_min(1)
    weights = segment_weights(pooled, thresholds.tau_r, distinct)
    asked = distinct.double() * weights
    asked = asked / asked.sum().clamp_min(1e-30) / frames.clamp_min(1)
    by_frame = thresholds.even / len(segment) + (1 - thresholds.even) * asked[segment]
    return by_frame.clamp_min(1e-30)
