"""The one plan of all methods: for each prompt a rule chooses visual tokens, and text always stays."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from adatp.adatp_steps.shielding import shielded
from adatp.budget import BudgetError, Schedule
from adatp.layout import VideoLayout
from adatp.plan import Selection
from adatp.prefill import Prefill

if TYPE_CHECKING:
    from adatp.methods.base import Method

Choice = Tensor | tuple[Tensor, Tensor]
"""The visual tokens that stay, as rows of `Cut.token` (k,) int64 ascending. Where tokens are merged, also
(n,) int64: the index among them of the token that each is averaged into, -1 for a dropped one.
"""


class LiveTokens:
    """The visual tokens of one prompt that are still processed.

    Attributes:
        token: (n,) int64, ascending: indices into the layout's ``index``.
        row: (n,) int64: their rows among all tokens that are still processed.
    """

    def __init__(self, layout: VideoLayout) -> None:
        self.layout = layout
        visual = len(layout.index)
        self.token = torch.arange(visual, device=layout.index.device)
        self.row = torch.searchsorted(layout.real, layout.index)
        # A stable sort by "is it text?" does not wait for the GPU; picking by a mask would.
        is_text = torch.ones_like(layout.real).index_fill_(0, self.row, 0)
        self._text = layout.real[is_text.argsort(descending=True, stable=True)[: len(is_text) - visual]]

    def keep(self, alive: Tensor, kept: Tensor, into: Tensor | None = None) -> Selection:
        """Continue with the visual tokens ``kept`` and all text.

        Args:
            alive: (m,) int64 positions of all tokens that were processed so far, ascending.
            kept: (k,) int64 rows of ``token``, ascending.
            into: (n,) int64, see `Choice`.

        Returns:
            The same in positions of the prompt, text included.
        """
        before, self.token = self.row, self.token[kept]
        visual = self.layout.index[self.token]
        left = torch.cat([self._text, visual]).sort().values
        self.row = torch.searchsorted(left, visual)
        if into is None:
            return Selection(left)
        number = torch.searchsorted(left, alive)  # right for all tokens that stay, text included
        number[before] = self.row[into.clamp(min=0)].where(into >= 0, -1)
        return Selection(left, number)


class Cut:
    """One prompt at one cut, in visual tokens alone: the input of a rule.

    Attributes:
        layer: the layer about to run.
        keep: number of tokens that the schedule leaves to this layer.
        token: (n,) int64, ascending: the visual tokens still processed, as indices into the layout's
            ``index``.
        log_scores: (n,) float64 logarithm of the attention that they received in the layer before, mean over
            heads and query rows; None before the first layer and where the layer before was not scored. Use
            it to order tokens: where one token takes all attention, the others' `scores` are zero.
    """

    def __init__(
        self, layer: int, keep: int, live: LiveTokens, log_scores: Tensor | None, hidden: Tensor
    ) -> None:
        self.layer, self.keep, self.token = layer, keep, live.token
        self.log_scores = None if log_scores is None else log_scores[live.row]
        self._row, self._hidden = live.row, hidden

    @property
    def scores(self) -> Tensor | None:
        """(n,) float32 attention itself, or None if there are no scores."""
        return None if self.log_scores is None else self.log_scores.exp().float()

    @property
    def states(self) -> Tensor:
        """(n, d) hidden states, on the layer's device; before the first layer the input embeddings."""
        return self._hidden[self._row.to(self._hidden.device)]


Rule = Callable[[Cut], Choice]
"""Chooses one prompt's tokens at each of its cuts. It may have a method ``notes() -> dict`` that adds
plain numbers and lists to the report.
"""


@dataclass(eq=False)
class _Sample:
    """One prompt that has visual tokens."""

    live: LiveTokens
    schedule: Schedule
    cuts: frozenset[int]
    rule: Rule
    reason: str = ""
    """Why the FLOPs target is out of reach, or empty."""


class TokenPlan:
    """One prefill of a method (see `adatp.plan.Plan`).

    Every prompt is decided by itself, so that a batch gives the same results as single runs.

    Args:
        method: its schedules, cuts and rules are used.
        prefill: the prompts.

    Raises:
        BudgetError: a prompt can't be brought down to the target, and ``prefill`` is strict.

    Attributes:
        samples: one per prompt, None for prompts without visual tokens.
    """

    def __init__(self, method: Method, prefill: Prefill) -> None:
        self.real: Sequence[Tensor] = [layout.real for layout in prefill.layouts]
        self.queries: Sequence[Tensor] = [layout.question[-method.query_rows :] for layout in prefill.layouts]
        self.samples: list[_Sample | None] = []
        for number, layout in enumerate(prefill.layouts):
            self.samples.append(_sample(method, prefill, number) if len(layout.index) else None)
        self.cuts: frozenset[int] = frozenset().union(*(each.cuts for each in self.samples if each))
        self.scored = frozenset(cut - 1 for cut in self.cuts if cut)

    def select(
        self, layer: int, sample: int, alive: Tensor, log_scores: Tensor | None, hidden: Tensor
    ) -> Selection:
        """Positions in one prompt that ``layer`` will process: all text, and what the rule chooses.

        For the arguments and their shapes, see `adatp.plan.Plan.select`.
        """
        of = self.samples[sample]
        if of is None or layer not in of.cuts:
            return Selection(alive)
        keep = of.schedule.visual[min(layer, len(of.schedule.visual) - 1)]
        with shielded(hidden.device):
            choice = of.rule(Cut(layer, keep, of.live, log_scores, hidden))
        kept, into = choice if isinstance(choice, tuple) else (choice, None)
        device = alive.device
        return of.live.keep(alive, kept.to(device), None if into is None else into.to(device))

    def scored_of(self, sample: int) -> frozenset[int]:
        """The layers before the prompt's own cuts."""
        of = self.samples[sample]
        return frozenset(cut - 1 for cut in of.cuts if cut) if of else frozenset()

    def notes(self) -> list[dict[str, Any]]:
        """For each prompt: its schedule, the reason if the target is out of reach, notes of its rule."""
        found: list[dict[str, Any]] = []
        for of in self.samples:
            rule_notes: Callable[[], dict[str, Any]] = getattr(of.rule if of else None, "notes", dict)
            found.append({**rule_notes(), "schedule": list(of.schedule.visual)} if of else {})
            if of and of.reason:
                found[-1]["out_of_reach"] = of.reason
        return found


def _sample(method: Method, prefill: Prefill, number: int) -> _Sample:
    """Decide on one prompt before anything runs."""
    layout, reason = prefill.layouts[number], ""
    visual = len(layout.index)
    try:
        schedule = method.schedule_of(prefill.shape, layout)
    except BudgetError as error:
        if prefill.strict or error.least is None:
            raise
        schedule, reason = error.least, error.reason
        which = f"prompt {number + 1} of {len(prefill.layouts)}" if len(prefill.layouts) > 1 else "the prompt"
        warnings.warn(
            f"{which} takes {schedule.ratio:.1%} of vanilla FLOPs, the least that {method.name} can do, not "
            f"the {method.flops or 1:.1%} asked for: {reason}",
            stacklevel=2,
        )
    nothing = bool(reason) and schedule.visual[-1] == visual  # scores that drop nothing would only cost
    cuts = frozenset(() if nothing else method.cuts_of(prefill.shape, schedule, visual))
    return _Sample(LiveTokens(layout), schedule, cuts, method.rule(prefill, number, schedule), reason)
