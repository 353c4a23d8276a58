"""FastVID (arXiv 2503.11187): dynamic segments, then salient tokens and density peaks. Uses no question.

As in the official code for LLaVA-OneVision:

- DySeg: the video is cut at its least similar neighbouring frames, and wherever they are less similar than a
  threshold.
- ATS: each frame keeps the tokens with the most attention in the vision tower.
- DTM: the rest of a segment's budget goes to anchor frames, every fourth one counted back from its last. They
  keep their density peaks, and the segment's other tokens are merged into those.

What differs:

- We compare frames by their pooled tower features and weigh tokens by the mean attention that they receive in
  the tower. The official code loads SigLIP's pooling head for both.
- We merge a token into the most similar anchor token of its segment, not into one of every anchor frame.
- Anchors become the plain mean. The official code leaves an anchor 0.6 of its own weight.
- Shares are rounded so that the budget is spent to the last token. Ties are broken by order, not at random.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from adatp.budget import Schedule
from adatp.errors import SettingError
from adatp.methods.base import Method
from adatp.methods.clustering import density_peaks, distances, nearest
from adatp.methods.grouping import numbers_by_frame
from adatp.methods.selection import kept_and_into, split_evenly, split_in_proportion, top
from adatp.methods.sinks import check_damping, damped
from adatp.methods.token_plan import Choice, Cut, Rule
from adatp.prefill import Prefill


@dataclass(frozen=True)
class FastVID(Method):
    """Salient tokens of every frame, density peaks of anchor frames; solved: tokens per frame.

    Attributes:
        segments: the paper's c, the least number of segments of a video.
        tau: neighbouring frames less similar than this are in different segments.
        context: the paper's d, the share of tokens that are density peaks.
        anchors: the paper's p: every p-th frame of a segment is an anchor.
        neighbours: number of nearest tokens over which density is taken.
        sink: weight of SToP's damping of sink tokens, 0 for none.
    """

    name: ClassVar[str] = "fastvid"
    merges: ClassVar[bool] = True
    tower_attention: ClassVar[bool] = True
    tunable: ClassVar[Mapping[str, Sequence[Any]]] = {
        "tau": (0.8, 0.9, 0.95, 0.98),
        "context": (0.2, 0.4, 0.6),
        "sink": (0.01, 0.1),
    }

    segments: int = 8
    tau: float = 0.9
    context: float = 0.4
    anchors: int = 4
    neighbours: int = 4
    sink: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        check_damping(self.sink)
        if min(self.segments, self.anchors, self.neighbours) < 1 or not 0 <= self.context <= 1:
            raise SettingError("segments, anchors and neighbours are at least 1, context a share, in [0, 1]")

    def rule(self, prefill: Prefill, sample: int, schedule: Schedule) -> Rule:
        """Split the budget evenly over frames, then prune each segment."""
        layout, keep = prefill.layouts[sample], schedule.visual[-1]
        attention = damped(prefill.tower_attention(sample), layout, self.sink)
        features = torch.split(prefill.frame_features(sample), [grid[0] for grid in layout.grids])
        cuts = [segment_lengths(video, self.segments, self.tau) for video in features]

        def choose(cut: Cut) -> Choice:
            hidden = cut.states
            videos, received = numbers_by_frame(layout, hidden.device), attention.to(hidden.device)
            shares = iter(split_in_proportion(keep, [len(frame) for video in videos for frame in video]))
            owner = torch.full_like(cut.token, -1, device=hidden.device)
            for video, lengths in zip(videos, cuts, strict=True):
                frames = iter(video)
                for segment in (list(islice(frames, length)) for length in lengths):
                    inside, sizes = torch.cat(segment), list(map(len, segment))
                    share = list(islice(shares, len(segment)))
                    owners = self.prune_segment(hidden[inside], received[inside], sizes, share)
                    owner[inside] = inside[owners.clamp(min=0)].where(owners >= 0, -1)
            return kept_and_into(owner)

        return choose

    def prune_segment(
        self, states: Tensor, attention: Tensor, sizes: Sequence[int], shares: Sequence[int]
    ) -> Tensor:
        """The owner of each of a segment's tokens, frame after frame; -1 for none.

        Args:
            states: (n, d).
            attention: (n,).
            sizes: (w,) tokens of each of w frames.
            shares: (w,) tokens to keep in each frame; density peaks move to anchor frames.
        """
        number = torch.arange(len(states), device=states.device)
        owner = torch.full_like(number, -1)
        frames = torch.split(number, list(sizes))
        peaks = [int(share * self.context) for share in shares]
        salient = [share - peak for share, peak in zip(shares, peaks, strict=True)]
        for frame, keep in zip(frames, salient, strict=True):
            kept = frame[top(attention[frame], keep)]
            owner[kept] = kept
        rest = owner < 0
        room = [size - keep for size, keep in zip(sizes, salient, strict=True)]
        anchors = []
        for frame, share in zip(frames, self.peaks_by_frame(sum(peaks), room), strict=True):
            if share:
                left = frame[rest[frame]]
                anchors.append(left[top(density_peaks(distances(states[left]), self.neighbours), share)])
        if anchors:
            anchor = torch.cat(anchors)
            owner[rest] = anchor[nearest(states[rest], states[anchor])]
            owner[anchor] = anchor
        return owner

    def peaks_by_frame(self, total: int, room: list[int]) -> list[int]:
        """Density peaks of each frame of a segment. Other frames get what anchor frames have no room for.

        Args:
            total: density peaks of the segment.
            room: tokens of each frame that are not salient.
        """
        anchor = [back % self.anchors == 0 for back in reversed(range(len(room)))]
        first = split_evenly(total, [n * is_anchor for n, is_anchor in zip(room, anchor, strict=True)])
        left = split_evenly(
            total - sum(first), [n * (not is_anchor) for n, is_anchor in zip(room, anchor, strict=True)]
        )
        return [a + b for a, b in zip(first, left, strict=True)]


def segment_lengths(features: Tensor, segments: int, tau: float) -> list[int]:
    """Number of frames of each segment of a video, in order.

    Args:
        features: (T, d).
        segments: the video is cut at least at its ``segments`` - 1 lowest cosines between neighbouring
            frames.
        tau: it is also cut wherever the cosine is below this.
    """
    like = F.cosine_similarity(features[:-1].float(), features[1:].float(), dim=-1)
    cut = like < tau
    cut[top(-like, segments - 1)] = True
    ends = [*((cut.nonzero().squeeze(1) + 1).tolist()), len(features)]
    return [end - begin for begin, end in zip([0, *ends], ends, strict=False)]
