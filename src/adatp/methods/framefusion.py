"""FrameFusion (arXiv 2501.01986): merge similar tokens, then prune those with little attention.

As in the official code, tokens are merged before layer after layer. A token is averaged into the token at the
same position in the frame before if their states are at least as similar as a threshold. Runs of such tokens
become one. If that would go past the budget, only the most similar are merged, and nothing more is dropped.
If fewer than a tenth of the tokens merge, merging ends. After the next layer, the tokens that the last token
attends to most stay, as many as the budget then allows.

What differs: after the first layer, it merges between attention and MLP; we merge between layers. Our budgets
are real FLOPs; the official code counts visual tokens times 28 layers. Merging ends at half the depth, or
earlier where going on would put the target out of reach. There the official code raises an error.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from adatp.budget import Schedule, nearest_cut
from adatp.errors import SettingError
from adatp.flops import DecoderShape
from adatp.layout import VideoLayout
from adatp.methods.base import Method
from adatp.methods.selection import kept_and_into, top
from adatp.methods.spent_flops import SpentFlops
from adatp.methods.token_plan import Choice, Cut, Rule
from adatp.prefill import Prefill


@dataclass(frozen=True)
class FrameFusion(Method):
    """Merge similar tokens of neighbouring frames, then prune by attention once, to the target.

    What each layer keeps depends on the video. ``schedule`` is that of a video in which nothing is similar.

    Attributes:
        similarity: cosine from which a token is merged into the one at its position in the frame before.
        least_merged: merging ends where a smaller share of the tokens is that similar.
    """

    name: ClassVar[str] = "framefusion"
    merges: ClassVar[bool] = True
    tunable: ClassVar[Mapping[str, Sequence[Any]]] = {"similarity": (0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)}

    similarity: float = 0.6
    least_merged: float = 0.1

    def __post_init__(self) -> None:
        super().__post_init__()
        if not (-1 <= self.similarity <= 1 and 0 <= self.least_merged <= 1):
            raise SettingError("similarity is a cosine, in [-1, 1], least_merged a share, in [0, 1]")

    def cuts(self, shape: DecoderShape) -> tuple[int, ...]:
        """Layer 0, then every layer that can be cut up to just past half the depth."""
        last = nearest_cut(shape, shape.layers // 2)
        return 0, *(layer for layer in shape.cut_layers if layer <= last)

    def layer_counts(self, shape: DecoderShape, visual: int, x: int) -> Sequence[int]:
        """If nothing merges before the first layer, tokens are pruned before the next."""
        cut = self.cuts(shape)[1]
        return [visual] * cut + [x] * (shape.layers - cut)

    def rule(self, prefill: Prefill, sample: int, schedule: Schedule) -> Rule:
        """Decide layer by layer, by the FLOPs that the layers so far have spent."""
        return _Fusion(self, prefill, prefill.layouts[sample], schedule)


class _Fusion:
    """State of one sample on its way through the layers."""

    def __init__(
        self, method: FrameFusion, prefill: Prefill, layout: VideoLayout, schedule: Schedule
    ) -> None:
        self.method, self.layout = method, layout
        self.spent = SpentFlops(method, prefill.shape, layout.counts, schedule)
        self.cuts = method.cuts(prefill.shape)
        self.merging = self.pruning = True

    def __call__(self, cut: Cut) -> Choice:
        n = len(cut.token)
        self.spent.counts += [n] * (cut.layer - len(self.spent.counts))
        choice: Choice = torch.arange(n, device=cut.token.device)
        if self.merging:
            choice = self.merge(cut.layer, cut.token, cut.states)
        elif self.pruning:
            assert cut.log_scores is not None  # and later cuts have room for all tokens left
            choice = top(cut.log_scores, self.spent.room(n))
        self.spent.counts.append(len(choice[0]) if isinstance(choice, tuple) else len(choice))
        return choice

    def merge(self, layer: int, token: Tensor, hidden: Tensor) -> tuple[Tensor, Tensor]:
        """Merge similar tokens as far as the budget needs it; decide whether to continue.

        Args:
            layer: the layer about to run.
            token: (n,) int64, the visual tokens alive.
            hidden: (n, d) their states.

        Returns:
            See `Choice`.
        """
        n = len(token)
        before, like = same_place_before(self.layout, token, hidden)
        merged, surplus = int((like >= self.method.similarity).sum()), n - self.spent.room(n)
        if merged >= surplus:
            merged, self.pruning = surplus, False
        later = [cut for cut in self.cuts if cut > layer]
        self.merging = (
            self.pruning
            and merged >= self.method.least_merged * n
            and len(later) > 1
            and self.spent.can_wait(n - merged, until=later[1])
        )
        return kept_and_into(merge_runs(before, top(like, merged)))


def same_place_before(layout: VideoLayout, token: Tensor, states: Tensor) -> tuple[Tensor, Tensor]:
    """For each token, the last one before it at its position of its video, and the cosine of the two.

    Args:
        layout: layout of the sample.
        token: (n,) numbers of the visual tokens alive, ascending.
        states: (n, d).

    Returns:
        (n,) int64 rows, -1 where there is none; (n,) float32 cosines, -2 there.
    """
    place = (layout.video * (int(layout.position.max()) + 1) + layout.position)[token].to(states.device)
    order = place.argsort(stable=True)
    earlier, later = order[:-1], order[1:]
    same = place[earlier] == place[later]
    earlier, later = earlier[same], later[same]
    before = torch.full_like(place, -1).index_copy_(0, later, earlier)
    like = F.cosine_similarity(states[later].float(), states[earlier].float(), dim=-1)
    return before, like.new_full(place.shape, -2.0).index_copy_(0, later, like)


def merge_runs(before: Tensor, merged: Tensor) -> Tensor:
    """The owner of each token: merged tokens belong to the first of their run.

    Args:
        before: (n,) int64, the token before each at its position.
        merged: (m,) int64, the tokens that join the one before them.
    """
    owner = torch.arange(len(before), device=before.device)
    owner[merged] = before[merged]
    while not torch.equal(owner, owner[owner]):
        owner = owner[owner]
    return owner
