"""Averaging tokens equals averaging them in a masked run."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from adatp.budget import Schedule, everything
from adatp.flops import DecoderShape
from adatp.layout import PromptCounts
from adatp.methods.base import Method
from adatp.methods.token_plan import Choice, Cut, TokenPlan
from adatp.models import decoder_of
from adatp.plan import Selection
from adatp.prefill import Prefill
from agreement import Agree
from families import (
    Prompt,
    batch,
    build,
)
from oracle import masking_error, recorded
from rounding import limit
from suite import GREEDY, batches, engine, feature


@dataclass(frozen=True)
class Merge(Method):
    """Average each visual token into the first one of its group of ``group``, before layers 0 and 3."""

    name: ClassVar[str] = "merge"
    merges: ClassVar[bool] = True
    group: int = 3

    def cuts(self, shape: DecoderShape) -> tuple[int, ...]:
        return 0, 3

    def schedule(self, shape: DecoderShape, counts: PromptCounts) -> Schedule:
        return everything(shape, counts)

    def scored_layers(self, shape: DecoderShape) -> list[int]:
        return []

    def plan(self, prefill: Prefill) -> MergePlan:
        return MergePlan(self, prefill)

    def choose(self, cut: Cut) -> Choice:
        number = torch.arange(len(cut.token))
        kept, into = (number % self.group == 0).nonzero()[:, 0], number // self.group
        if self.group > 1 and cut.layer == 0:
            into[int((number % self.group > 0).nonzero()[-1])] = -1  # one is dropped
        return kept, into


class MergePlan(TokenPlan):
    """Without scores; notes what the engine was given."""

    def __init__(self, method: Merge, prefill: Prefill) -> None:
        super().__init__(method, prefill)
        self.scored = frozenset()

    def select(self, layer: int, sample: int, alive: Tensor, log_scores: Any, hidden: Tensor) -> Selection:
        assert log_scores is None
        selection = super().select(layer, sample, alive, log_scores, hidden)
        taken.append((layer, sample, alive, selection.kept, selection.into, hidden))
        return selection


taken: list[Any] = []


@feature("merge", every_attention=True)
@batches
def test_merging_is_averaging_in_a_masked_run(
    family: Any, attention: str, prompts: list[Prompt], agree: Agree
) -> None:
    model, inputs = build(family, attention), batch(family, prompts)
    taken.clear()
    with Merge()(model) as run, recorded(model) as record:
        model.generate(**inputs, **GREEDY)
    assert run.report.visual_tokens[0][0] < 2 + run.report.prompt_visual_tokens[0] // 3

    def average(layer: int) -> Any:
        def hook(_: Any, args: Any, kwargs: Any) -> Any:
            states = args[0].clone()
            for at, sample, alive, kept, into, hidden in taken:
                if at == layer:
                    agree(hidden, args[0][sample, alive], within=limit(family, of="states"))
                    for k in range(len(kept)):
                        states[sample, kept[k]] = args[0][sample, alive[into == k]].mean(0)
            return (states, *args[1:]), kwargs

        return hook

    layers = decoder_of(model).layers
    handles = [
        layers[number].register_forward_pre_hook(average(number), with_kwargs=True) for number in (0, 3)
    ]
    real = inputs["attention_mask"].bool()
    agree.masked(model, record, run.report.kept, real, within=limit(family))
    for handle in handles:
        handle.remove()
    plain = masking_error(model, record, run.report.kept, real)
    assert plain > 1e-2  # it does matter


@engine
@batches
def test_merging_nothing_is_bit_identical(family: Any, prompts: list[Prompt], agree: Agree) -> None:
    model, inputs = build(family), batch(family, prompts)
    expected = model(**inputs).logits
    with Merge(group=1)(model):
        agree(model(**inputs).logits, expected)
