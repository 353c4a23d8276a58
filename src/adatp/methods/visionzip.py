"""VisionZip (arXiv 2412.04467): the vision tower's attention picks, the rest is merged. Uses no question.

As in the official code, each frame keeps the tokens that receive most attention in the tower (dominant). Of
the rest, evenly spaced ones (contextual) each absorb the tokens most similar to them.

What differs: the official code works on patches inside a CLIP tower, with the attention of its class token
and the similarity of keys. SigLIP has no class token, so we use the mean attention received. Towers pool
patches afterwards, so we choose among the projected, pooled tokens, by their own cosine. Contextual tokens
become the mean of what is merged. The official code adds the mean of the others to the target, which here
would double its length.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from adatp.budget import Schedule
from adatp.errors import SettingError
from adatp.methods.base import Method
from adatp.methods.clustering import nearest
from adatp.methods.grouping import numbers_by_frame
from adatp.methods.selection import kept_and_into, split_in_proportion, top
from adatp.methods.sinks import check_damping, damped
from adatp.methods.token_plan import Choice, Cut, Rule
from adatp.prefill import Prefill


@dataclass(frozen=True)
class VisionZip(Method):
    """Dominant tokens by the tower's attention, contextual ones merged; solved: tokens per frame.

    Attributes:
        contextual: share of a frame's tokens that are contextual; the paper keeps 54 dominant and 10
            contextual ones.
        sink: weight of SToP's damping of sink tokens, 0 for none.
    """

    name: ClassVar[str] = "visionzip"
    merges: ClassVar[bool] = True
    tower_attention: ClassVar[bool] = True
    tunable: ClassVar[Mapping[str, Sequence[Any]]] = {
        "contextual": (0.0, 10 / 64, 0.3, 0.5),
        "sink": (0.01, 0.1),
    }

    contextual: float = 10 / 64
    sink: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        check_damping(self.sink)
        if not 0 <= self.contextual < 1:
            raise SettingError(f"contextual is a share of the tokens kept, in [0, 1), not {self.contextual}")

    def rule(self, prefill: Prefill, sample: int, schedule: Schedule) -> Rule:
        """Split the budget evenly over frames."""
        layout, keep = prefill.layouts[sample], schedule.visual[-1]
        attention = damped(prefill.tower_attention(sample), layout, self.sink)

        def choose(cut: Cut) -> Choice:
            hidden = cut.states
            frames = [frame for video in numbers_by_frame(layout, hidden.device) for frame in video]
            received = attention.to(hidden.device)
            owner = torch.full_like(cut.token, -1, device=hidden.device)
            for frame, share in zip(frames, split_in_proportion(keep, list(map(len, frames))), strict=True):
                owners = zip_frame(hidden[frame], received[frame], share, round(share * self.contextual))
                owner[frame] = frame[owners.clamp(min=0)].where(owners >= 0, -1)
            return kept_and_into(owner)

        return choose


def zip_frame(states: Tensor, attention: Tensor, keep: int, contextual: int) -> Tensor:
    """The owner of each of a frame's tokens (see `adatp.methods.selection`).

    Args:
        states: (n, d).
        attention: (n,) that each token receives.
        keep: tokens to keep in all.
        contextual: number of them that are contextual.

    Returns:
        (n,) int64: itself, the contextual token it is merged into, or -1 if there is none.
    """
    owner = torch.full((len(states),), -1, device=states.device)
    dominant = top(attention, keep - contextual)
    owner[dominant] = dominant
    rest = (owner < 0).nonzero().squeeze(1)
    if contextual:
        targets = rest[:: max(1, len(rest) // contextual)][:contextual]
        owner[rest] = targets[nearest(states[rest], states[targets])]
        owner[targets] = targets
    return owner
