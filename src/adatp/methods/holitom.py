"""HoliTom (arXiv 2505.21334): merge what repeats over time, prune the rest, merge again inside the decoder.

As in the official code for LLaVA-OneVision:

- Dynamic programming cuts the video into windows so that as many tokens as possible repeat.
- A position is static in a window if all its neighbouring tokens are more similar than a threshold. It
  becomes one token. Static tokens are merged into their density peaks.
- Of each frame's other tokens, those with the most attention in the vision tower stay.
- In the decoder, after layer 18 of 28, the half that the last token attends to most stays. The other tokens
  are merged into the most similar of them.

What differs:

- We solve for the share of tokens that stays. Shares are rounded so that the budget is spent to the last
  token.
- Where merging over time leaves fewer tokens than the budget has, the least similar of the merged tokens
  stay.
- Merged tokens become the plain mean. The official code gives a density peak 0.6 of the weight. Inside the
  decoder it merges one token after the other, and each halves what was there before.
- Ties are broken by order, not at random.
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
from adatp.methods.clustering import cluster, nearest
from adatp.methods.grouping import numbers_by_video, split_by_video
from adatp.methods.selection import kept_and_into, split_in_proportion, top
from adatp.methods.sinks import check_damping, damped
from adatp.methods.token_plan import Choice, Cut, Rule
from adatp.prefill import Prefill


@dataclass(frozen=True)
class HoliTom(Method):
    """Static tokens merged over time, the rest by the tower's attention, half merged inside; solved: tokens.

    Attributes:
        tau: neighbouring tokens of a position are static if their cosine is above this.
        inner: share of the tokens that stays inside the decoder; 1 leaves that cut out.
        layer: layer before which that cut is made; None: 18 of 28, others in proportion.
        neighbours: number of nearest tokens for density peaks.
        sink: weight of SToP's damping of sink tokens, 0 for none.
    """

    name: ClassVar[str] = "holitom"
    complete_frames: ClassVar[bool] = True
    merges: ClassVar[bool] = True
    tower_attention: ClassVar[bool] = True
    tunable: ClassVar[Mapping[str, Sequence[Any]]] = {
        "tau": (0.6, 0.7, 0.8, 0.9, 0.95),
        "inner": (0.5, 0.75, 1.0),
        "sink": (0.01, 0.1),
    }

    tau: float = 0.8
    inner: float = 0.5
    layer: int | None = None
    neighbours: int = 7
    sink: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        check_damping(self.sink)
        if not (-1 <= self.tau <= 1 and 0 < self.inner <= 1 and self.neighbours > 0):
            raise SettingError("tau is a cosine, inner a share, in (0, 1], neighbours a positive number")
        check_scored_cut(self.layer)

    def cuts(self, shape: DecoderShape) -> tuple[int, ...]:
        """Before the first layer, and inside the decoder."""
        if self.inner == 1:
            return (0,)
        return 0, scaled_cut(shape, 18, of=28) if self.layer is None else self.layer

    def layer_counts(self, shape: DecoderShape, visual: int, x: int) -> Sequence[int]:
        """x tokens, then the share of them that stays inside the decoder."""
        cut = self.cuts(shape)[-1] or shape.layers
        return [x] * cut + [max(1, int(self.inner * x))] * (shape.layers - cut)

    def rule(self, prefill: Prefill, sample: int, schedule: Schedule) -> Rule:
        """Merge and prune before the first layer, merge once more inside."""
        layout = prefill.layouts[sample]
        attention = damped(prefill.tower_attention(sample), layout, self.sink)

        def choose(cut: Cut) -> Choice:
            if cut.layer:
                return merged_into_kept(cut)
            states = cut.states.float()
            videos = zip(numbers_by_video(layout, states.device), split_by_video(layout, states), strict=True)
            pieces = [self.pieces(numbers, frames) for numbers, frames in videos]
            return kept_and_into(self.owners(pieces, attention.to(states.device), cut.keep, len(states)))

        return choose

    def pieces(self, numbers: Tensor, states: Tensor) -> _Pieces:
        """A video's static and other tokens, window by window.

        Args:
            numbers: (frames, positions) of the video's tokens.
            states: (frames, positions, d).
        """
        like = F.cosine_similarity(states[:-1], states[1:], dim=-1)
        found = _Pieces([], [], [], [], [])
        begin = 0
        for length in static_windows(like > self.tau):
            window = slice(begin, begin + length)
            between = like[begin : begin + length - 1]
            static = (between > self.tau).all(0) & (length > 1)  # a lone frame repeats nothing
            found.static.append(numbers[begin, static])
            found.means.append(states[window, static].mean(0))
            found.repeats.append(numbers[begin + 1 : begin + length, static].flatten())
            found.like.append(between[:, static].flatten())
            found.others.extend(numbers[window, ~static])
            begin += length
        return found

    def owners(self, pieces: Sequence[_Pieces], attention: Tensor, keep: int, n: int) -> Tensor:
        """(n,) the owner of each visual token of a prompt, -1 for none; ``keep`` tokens own themselves."""
        device = attention.device
        owner = torch.arange(n, device=device)
        for piece in pieces:
            for static, repeats in zip(piece.static, piece.repeats, strict=True):
                owner[repeats] = static.repeat(len(repeats) // max(1, len(static)))
        repeats = torch.cat([each for piece in pieces for each in piece.repeats])
        like = torch.cat([each for piece in pieces for each in piece.like])
        if (room := keep - (n - len(repeats))) >= 0:
            stays = repeats[top(-like, room)]
            owner[stays] = stays
            return owner
        groups = [pair for piece in pieces for pair in zip(piece.static, piece.means, strict=True)]
        others = [each for piece in pieces for each in piece.others]
        shares = split_in_proportion(keep, [*(len(each) for each, _ in groups), *map(len, others)])
        final = torch.full_like(owner, -1)
        for (numbers, means), share in zip(groups, shares, strict=False):
            if share:
                centres, belongs = cluster(means, share, self.neighbours)
                final[numbers] = numbers[centres[belongs]]
        for numbers, share in zip(others, shares[len(groups) :], strict=True):
            kept = numbers[top(attention[numbers], share)]
            final[kept] = kept
        return final[owner]


@dataclass(frozen=True, eq=False)
class _Pieces:
    """A video's static tokens by window, and its other tokens by frame.

    Attributes:
        static: numbers of the first token of each static position.
        means: (m, d) mean of the tokens of each static position.
        repeats: numbers of the later tokens of those positions, frame by frame.
        like: cosine of each of these with the one before.
        others: numbers of each frame's other tokens.
    """

    static: list[Tensor]
    means: list[Tensor]
    repeats: list[Tensor]
    like: list[Tensor]
    others: list[Tensor]


def static_windows(similar: Tensor) -> list[int]:
    """Lengths of the windows of a video that leave as few tokens as possible.

    A window of w frames saves w - 1 tokens at each position that is similar from frame to frame throughout.

    Args:
        similar: (T - 1, P) bool, whether a position is similar in frame t and t + 1.

    Returns:
        Lengths that sum to T; among equally good cuts, the one with the shorter windows at the end.
    """
    frames = len(similar) + 1
    saved = torch.zeros(frames, frames, dtype=torch.int64)
    for begin in range(frames - 1):
        static = similar[begin:].cumprod(0).sum(1).cpu()
        saved[begin, begin + 1 :] = static * torch.arange(1, frames - begin)
    best, first = [0], []
    for end, column in enumerate(saved.T.tolist()):
        begin = max(range(end, -1, -1), key=lambda start: best[start] + column[start])
        best.append(best[begin] + column[begin])
        first.append(begin)
    lengths, end = [], frames
    while end:
        lengths.append(end - first[end - 1])
        end = first[end - 1]
    return lengths[::-1]


def merged_into_kept(cut: Cut) -> Choice:
    """The tokens with the most attention at a cut, and for every other token the most similar of them."""
    assert cut.log_scores is not None
    kept, states = top(cut.log_scores, cut.keep), cut.states
    into = nearest(states, states[kept.to(states.device)])
    into[kept.to(states.device)] = torch.arange(len(kept), device=states.device)
    return kept, into
