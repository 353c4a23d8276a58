"""ShaRP (arXiv 2512.05385): attention of a shallow layer, corrected for places, without duplicates.

There is no public code. Of the paper we could only read the abstracts of both versions and summaries. They
say: tokens are dropped at a shallow layer by the attention of the text; a bias of places is calibrated away;
and one of several similar tokens in a segment stays.

What differs or is ours: we fit the prior of places to the video's own scores (`adatp_steps/prior.py`), where
the paper measures it on black frames. The threshold of similarity is ours. Duplicates still fill the budget
that is left. The paper's segment-aware causal mask keeps the decoder's shallow layers within segments. We
leave it out: methods here choose tokens and do not change the decoder's attention.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor
from typing_extensions import override

from adatp.adatp_steps.prior import time_of, without_place
from adatp.budget import Schedule, check_scored_cut, scaled_cut
from adatp.errors import SettingError
from adatp.flops import DecoderShape
from adatp.methods.base import Method
from adatp.methods.segments import segments_of
from adatp.methods.selection import top, top_first
from adatp.methods.token_plan import Cut, Rule
from adatp.prefill import Prefill


@dataclass(frozen=True)
class ShaRP(Method):
    """Keep attended tokens, corrected for places and duplicates, after a shallow layer; solved: tokens.

    Attributes:
        layer: layer before which tokens are dropped; None: 2 of 28, others in proportion.
        tau_s: neighbouring frames whose pooled tower features have at least this cosine share a segment.
        duplicate: a token is a duplicate if one of its segment with a higher score has at least this cosine.
    """

    name: ClassVar[str] = "sharp"
    tunable: ClassVar[Mapping[str, Sequence[Any]]] = {"duplicate": (0.7, 0.8, 0.9, 0.95, 1.0)}

    layer: int | None = None
    tau_s: float = 0.9
    duplicate: float = 0.9

    def __post_init__(self) -> None:
        super().__post_init__()
        if not (-1 <= self.tau_s <= 1 and -1 <= self.duplicate <= 1):
            raise SettingError("tau_s and duplicate are cosines, in [-1, 1]")
        check_scored_cut(self.layer)

    @property
    @override
    def query_rows(self) -> int:
        return 32

    @override
    def cuts(self, shape: DecoderShape) -> tuple[int, ...]:
        return (scaled_cut(shape, 2, of=28) if self.layer is None else self.layer,)

    def rule(self, prefill: Prefill, sample: int, schedule: Schedule) -> Rule:
        """Rank within the prompt, duplicates of a segment last."""
        layout = prefill.layouts[sample]
        segment = segments_of(prefill, sample, self.tau_s).to(layout.frame.device)[layout.frame]
        place = layout.video * (int(layout.position.max()) + 1) + layout.position

        def choose(cut: Cut) -> Tensor:
            assert cut.log_scores is not None
            device, token = cut.log_scores.device, cut.token
            time = time_of(layout.frame[token], layout.frames).to(device)
            score = without_place(cut.log_scores, time, place[token].to(device))
            again = repeats(cut.states.float(), score.to(cut.states.device), segment[token], self.duplicate)
            # Ranks, not scores, since scores can have any size: duplicates must come after all others.
            rank = torch.empty_like(cut.token)
            rank[top_first(score)] = torch.arange(len(score) - 1, -1, -1, device=device)
            return top(rank - len(rank) * again.to(device), cut.keep)

        return choose


def repeats(states: Tensor, score: Tensor, segment: Tensor, cosine: float) -> Tensor:
    """(n,) bool: whether a token of the same segment that scores higher is at least this similar.

    Args:
        states: (n, d).
        score: (n,); among equal ones the earlier counts as higher.
        segment: (n,) int64, ascending.
        cosine: the threshold.
    """
    found = torch.zeros(len(states), dtype=torch.bool, device=states.device)
    begin = 0
    for length in filter(None, segment.bincount().tolist()):
        part = slice(begin, begin + length)
        unit, own = F.normalize(states[part], dim=-1), score[part]
        order = torch.arange(length, device=states.device)
        above = (own > own[:, None]) | ((own == own[:, None]) & (order < order[:, None]))
        found[part] = ((unit @ unit.T >= cosine) & above).any(1)
        begin += length
    return found
