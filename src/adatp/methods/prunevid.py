"""PruneVid (arXiv 2412.16117): merge over time, merge over space, then prune by the question.

As in the official code:

- Frames are clustered (DPC-KNN), and the clusters are smoothed into runs, the windows.
- A position whose tokens are similar throughout a window is static and becomes one token.
- A window's static tokens, and the other tokens of each of its frames, are clustered and averaged.
- In the decoder, each of these groups keeps the share alpha that the question attends to most.

What differs:

- We solve for the share of clusters, with at least one per group as far as the budget allows. The official
  share is half, and groups of up to 14 tokens stay as they are.
- A cluster sits at its centre's position. The official code renumbers positions.
- Scores are the mean over heads and text tokens. The official code takes the maximum over both.
- Ties are broken by order, not at random. A window of one frame has no static tokens.
- Where merging over time alone leaves fewer tokens than the budget has, more than alpha of them stay to the
  end. If even all of them do, FLOPs come out lower.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor
from typing_extensions import override

from adatp.budget import Schedule, check_scored_cut, scaled_cut
from adatp.errors import SettingError
from adatp.flops import DecoderShape
from adatp.methods.base import Method
from adatp.methods.clustering import cluster
from adatp.methods.grouping import numbers_by_video, split_by_video
from adatp.methods.selection import allocate, kept_and_into, top_by_group
from adatp.methods.spent_flops import SpentFlops
from adatp.methods.token_plan import Choice, Cut, Rule
from adatp.prefill import Prefill


@dataclass(frozen=True)
class PruneVid(Method):
    """Static tokens merged over time, clusters over space, the rest by the question; solved: clusters.

    Attributes:
        layer: layer before which the question prunes; None: 11 of 32, others in proportion.
        alpha: share of the merged tokens that stays there.
        tau: a position is static if the mean cosine between its tokens in a window is above it.
        segments: number of frame clusters, as a share of the frames.
        neighbours: number of nearest frames or tokens for DPC-KNN.
    """

    name: ClassVar[str] = "prunevid"
    complete_frames: ClassVar[bool] = True
    merges: ClassVar[bool] = True
    tunable: ClassVar[Mapping[str, Sequence[Any]]] = {
        "tau": (0.6, 0.7, 0.8, 0.9, 0.95),
        "alpha": (0.4, 0.7, 1.0),
    }

    layer: int | None = None
    alpha: float = 0.4
    tau: float = 0.8
    segments: float = 0.25
    neighbours: int = 7

    def __post_init__(self) -> None:
        super().__post_init__()
        if not (0 < self.alpha <= 1 and 0 < self.segments <= 1 and self.neighbours > 0):
            raise SettingError("alpha and segments are shares, in (0, 1], neighbours a positive number")
        check_scored_cut(self.layer)

    @property
    @override
    def query_rows(self) -> int:
        return 32

    def cuts(self, shape: DecoderShape) -> tuple[int, ...]:
        """Before the first layer, and where the question prunes."""
        return 0, scaled_cut(shape, 11, of=32) if self.layer is None else self.layer

    def layer_counts(self, shape: DecoderShape, visual: int, x: int) -> Sequence[int]:
        """x merged tokens, then alpha of them."""
        _, cut = self.cuts(shape)
        return [x] * cut + [max(1, int(self.alpha * x))] * (shape.layers - cut)

    def rule(self, prefill: Prefill, sample: int, schedule: Schedule) -> Rule:
        """Merge before the first layer, prune after it."""
        layout = prefill.layouts[sample]
        group_of = torch.full_like(layout.index, -1)
        spent = SpentFlops(self, prefill.shape, layout.counts, schedule)

        def choose(cut: Cut) -> Choice:
            if cut.layer:
                assert cut.log_scores is not None
                spent.counts = [len(cut.token)] * cut.layer
                group = group_of[cut.token]
                sizes = group.bincount().cpu()
                shares = allocate(sizes, torch.ones_like(sizes), spent.room(len(cut.token)), floor=0)
                return top_by_group(cut.log_scores, group, sizes, shares)
            states = cut.states.float()
            videos = zip(numbers_by_video(layout, states.device), split_by_video(layout, states), strict=True)
            groups = [members for numbers, frames in videos for members in self._groups(numbers, frames)]
            owner = self._merge(states, groups, schedule.visual[0])
            for number, members in enumerate(groups):
                group_of[members.flatten().to(group_of.device)] = number
            return kept_and_into(owner)

        return choose

    def _groups(self, numbers: Tensor, states: Tensor) -> list[Tensor]:
        """A video's groups: the token numbers of each (w, m), with tokens of the same position in one column.

        Args:
            numbers: (frames, positions) of the video's tokens.
            states: (frames, positions, d).
        """
        clusters = max(1, int(len(states) * self.segments))
        _, label = cluster(states.mean(1), clusters, self.neighbours)
        groups, begin = [], 0
        for length in smooth_runs(label.tolist()):
            window = slice(begin, begin + length)
            static = static_positions(states[window], self.tau)
            groups.append(numbers[window, static])
            groups += torch.split(numbers[window, ~static], 1)
            begin += length
        return [members for members in groups if members.numel()]

    def _merge(self, states: Tensor, groups: Sequence[Tensor], keep: int) -> Tensor:
        """The owner of each token; at most ``keep`` tokens own themselves.

        Args:
            states: (n, d).
            groups: from ``_groups``.
            keep: clusters in all.
        """
        sizes = torch.tensor([members.shape[1] for members in groups])
        owner = torch.full((len(states),), -1, device=states.device)
        shares = allocate(sizes, torch.ones_like(sizes), keep).tolist()
        for members, share in zip(groups, shares, strict=True):
            if share:
                centres, label = cluster(states[members].mean(0), share, self.neighbours)
                owner[members] = members[0, centres[label]].expand_as(members)
        return owner


def static_positions(states: Tensor, tau: float) -> Tensor:
    """(p,) bool: positions whose tokens' mean cosine between different frames is above tau.

    Args:
        states: (w, p, d) of a window of w frames. Of a single frame nothing is static.
        tau: threshold.
    """
    w = len(states)
    if w == 1:
        return torch.zeros(states.shape[1], dtype=torch.bool, device=states.device)
    total = F.normalize(states, dim=-1).sum(0).square().sum(-1)  # all pairs, each frame with itself too
    return (total - w) / (w * (w - 1)) > tau


def smooth_runs(labels: Sequence[int]) -> list[int]:
    """Lengths of the windows that labels of frames make, in order.

    The longest runs of each label stay, if longer than one frame. What lies between joins the longer of its
    neighbours, or the left one if they are equally long.
    """
    runs = [(label, len(list(run))) for label, run in groupby(labels)]
    longest = {label: max(n for other, n in runs if other == label) for label, _ in runs}
    kept = [label if n == longest[label] > 1 else None for label, n in runs for _ in range(n)]
    windows: list[tuple[int | None, int]] = []
    merged = [(label, len(list(run))) for label, run in groupby(kept)]
    for place, (label, n) in enumerate(merged):
        before = windows[-1] if windows else (None, 0)
        following = merged[place + 1] if place + 1 < len(merged) else (None, 0)
        if label is None:
            label = before[0] if before[1] >= following[1] else following[0]
        if windows and before[0] == label:
            windows[-1] = (label, before[1] + n)
        else:
            windows.append((label, n))
    return [n for _, n in windows]
