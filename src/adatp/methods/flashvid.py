"""FlashVID (its official code): attended and diverse tokens stay, the rest is merged over time and space.

As in the official code for LLaVA-OneVision:

- The video is cut into segments as by FastVID.
- ADTS: tokens of each frame are chosen one after the other, each the farthest from those chosen so far.
  Distances are weighed by the attention in the vision tower and by the token's relevance to its segment.
- TSTM: the rest of a segment is merged. First over time: each token is merged into the most similar one of
  the frame before, at any position, if that is similar enough. Then the tokens left in each frame are
  clustered.
- In the decoder, after layer 20 of 28, the three tenths of the tokens stay that the last token attends to
  most.

What differs:

- We solve for the number of tokens. Shares are rounded so that the budget is spent to the last token.
- No more tokens are merged over time than the budget needs.
- Relevance to a segment below zero counts as zero. The official code multiplies by it.
- A merged token is the plain mean of all its members. The official code averages trees first, then clusters
  of trees.
- Ties are broken by order.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from adatp.budget import Schedule, check_scored_cut, scaled_cut
from adatp.errors import SettingError
from adatp.flops import DecoderShape
from adatp.methods.base import Method
from adatp.methods.clustering import cluster
from adatp.methods.fastvid import segment_lengths
from adatp.methods.framefusion import merge_runs
from adatp.methods.grouping import numbers_by_video, split_by_video
from adatp.methods.selection import kept_and_into, split_in_proportion, top
from adatp.methods.token_plan import Choice, Cut, Rule
from adatp.prefill import Prefill


@dataclass(frozen=True)
class FlashVID(Method):
    """Attended, diverse tokens of every frame, the rest merged over time and space; solved: tokens.

    Attributes:
        alpha: share of the tokens that is chosen, not merged.
        similarity: cosine from which a token is merged into one of the frame before.
        segments: least number of segments of a video.
        tau: neighbouring frames less similar than this are in different segments.
        inner: share of the tokens that stays inside the decoder; 1 leaves that cut out.
        layer: layer before which that cut is made; None: 20 of 28, others in proportion.
        neighbours: number of nearest tokens for density peaks.
    """

    name: ClassVar[str] = "flashvid"
    complete_frames: ClassVar[bool] = True
    merges: ClassVar[bool] = True
    tower_attention: ClassVar[bool] = True
    tunable: ClassVar[Mapping[str, Sequence[Any]]] = {
        "similarity": (0.6, 0.7, 0.8, 0.9, 0.95),
        "alpha": (0.5, 0.7, 0.9),
        "inner": (0.3, 0.6, 1.0),
    }

    alpha: float = 0.7
    similarity: float = 0.8
    segments: int = 8
    tau: float = 0.9
    inner: float = 0.3
    layer: int | None = None
    neighbours: int = 7

    def __post_init__(self) -> None:
        super().__post_init__()
        if min(self.segments, self.neighbours) < 1 or not (0 <= self.alpha <= 1 and 0 < self.inner <= 1):
            raise SettingError("segments and neighbours are at least 1, alpha and inner shares, in [0, 1]")
        if not (-1 <= self.similarity <= 1 and -1 <= self.tau <= 1):
            raise SettingError("similarity and tau are cosines, in [-1, 1]")
        check_scored_cut(self.layer)

    def cuts(self, shape: DecoderShape) -> tuple[int, ...]:
        """Before the first layer, and inside the decoder."""
        if self.inner == 1:
            return (0,)
        return 0, scaled_cut(shape, 20, of=28) if self.layer is None else self.layer

    def layer_counts(self, shape: DecoderShape, visual: int, x: int) -> Sequence[int]:
        """x tokens, then the share of them that stays inside the decoder."""
        cut = self.cuts(shape)[-1] or shape.layers
        return [x] * cut + [max(1, int(self.inner * x))] * (shape.layers - cut)

    def rule(self, prefill: Prefill, sample: int, schedule: Schedule) -> Rule:
        """Split the budget evenly over frames, prune each segment; inside, prune by attention."""
        layout = prefill.layouts[sample]
        attention = prefill.tower_attention(sample)

        def choose(cut: Cut) -> Choice:
            if cut.layer:
                assert cut.log_scores is not None
                return top(cut.log_scores, cut.keep)
            states = cut.states.float()
            numbers, received = numbers_by_video(layout, states.device), attention.to(states.device)
            shares = iter(split_in_proportion(cut.keep, [len(frame) for video in numbers for frame in video]))
            owner = torch.full((len(states),), -1, device=states.device)
            for video, frames in zip(numbers, split_by_video(layout, states), strict=True):
                begin = 0
                for length in segment_lengths(frames.mean(1), self.segments, self.tau):
                    part = slice(begin, begin + length)
                    inside = video[part].flatten()
                    budget = [next(shares) for _ in range(length)]
                    owners = self.prune_segment(frames[part], received[video[part]], budget)
                    owner[inside] = inside[owners.clamp(min=0)].where(owners >= 0, -1)
                    begin += length
            return kept_and_into(owner)

        return choose

    def prune_segment(self, states: Tensor, attention: Tensor, shares: Sequence[int]) -> Tensor:
        """The owner of each of a segment's tokens, frame after frame; -1 for none.

        Args:
            states: (w, P, d).
            attention: (w, P).
            shares: (w,) tokens to keep of each frame; those of merged tokens move within the segment.
        """
        frames, positions, width = states.shape
        by_choice = [-int(-share * self.alpha // 1) for share in shares]
        chosen = diverse(states, attention, by_choice)
        number = torch.arange(frames * positions, device=states.device)
        owner = torch.where(chosen.flatten(), number, -1)
        rest, keep = ~chosen, sum(shares) - sum(by_choice)
        if not keep:
            return owner
        before, like = most_similar_before(states, rest)
        surplus = int(rest.sum()) - keep
        merged = top(like, min(surplus, int((like >= self.similarity).sum())))
        root = merge_runs(before, merged)
        sizes = like.new_zeros(len(number)).index_add_(0, root, torch.ones_like(like))
        means = states.new_zeros(len(number), width)
        means.index_add_(0, root, states.flatten(0, 1)).div_(sizes.clamp(min=1)[:, None])
        left = rest.flatten() & (root == number)
        by_frame = [frame[left[frame]] for frame in number.view(frames, positions)]
        final = torch.full_like(number, -1)
        for tokens, share in zip(by_frame, split_in_proportion(keep, list(map(len, by_frame))), strict=True):
            if share:
                centres, belongs = cluster(means[tokens], share, self.neighbours)
                final[tokens] = tokens[centres[belongs]]
        return torch.where(chosen.flatten(), number, final[root])


def diverse(states: Tensor, attention: Tensor, counts: Sequence[int]) -> Tensor:
    """(w, P) bool: the chosen tokens of each frame, each far from those chosen before it.

    Args:
        states: (w, P, d) of a segment's frames.
        attention: (w, P) that the tokens receive in the tower.
        counts: (w,) tokens to choose of each frame.
    """
    frames, positions, _ = states.shape
    units = F.normalize(states, dim=-1)
    distance = (1 - units @ units.transpose(1, 2)).clamp(min=0)
    weight = attention.float() * (states @ states.mean((0, 1))).clamp(min=0)
    weight = weight / weight.amax().clamp(min=1e-12)
    # The first token chosen is the farthest from its nearest neighbour, with the same weights as the others.
    itself = torch.eye(positions, dtype=torch.bool, device=states.device)
    closest = distance.masked_fill(itself, torch.inf).amin(1).nan_to_num(posinf=1.0)
    chosen = torch.zeros(frames, positions, dtype=torch.bool, device=states.device)
    wanted, row = torch.tensor(counts, device=states.device), torch.arange(frames, device=states.device)
    for step in range(max(counts, default=0)):
        pick = (closest * weight).masked_fill(chosen, -1).argmax(1)
        chosen[row, pick] |= wanted > step
        found = distance[row, pick]
        closest = found if step == 0 else torch.minimum(closest, found)
    return chosen


def most_similar_before(states: Tensor, among: Tensor) -> tuple[Tensor, Tensor]:
    """For each of a segment's tokens, the most similar one of the frame before, and their cosine.

    Args:
        states: (w, P, d).
        among: (w, P) bool, the tokens that are compared.

    Returns:
        (w P,) int64 token numbers, -1 where there is none; (w P,) float32 cosines, -2 there.
    """
    frames, positions, _ = states.shape
    units = F.normalize(states, dim=-1)
    cosine = units[1:] @ units[:-1].transpose(1, 2)
    cosine = cosine.masked_fill(~among[:-1, None], -2).masked_fill(~among[1:, :, None], -2)
    best, where = cosine.max(-1)
    first = torch.arange(frames - 1, device=states.device)[:, None] * positions
    before = torch.where(best > -2, where + first, -1)
    none = before.new_full((positions,), -1)
    return torch.cat([none, before.flatten()]), torch.cat([best.new_full((positions,), -2.0), best.flatten()])
