"""A target that can't be met: as low as the method goes, prompt by prompt; an error for who asks for one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor

from adatp import AdaTP, BudgetError
from adatp.flops import DecoderShape
from adatp.layout import PromptCounts
from adatp.methods import METHODS
from adatp.methods.base import Method
from adatp.methods.token_plan import Cut
from families import LlavaOnevision, Prompt, batch, build
from suite import GREEDY

TEXT_HEAVY = Prompt(frames=8, before=400, seed=3)
VIDEO = PromptCounts(5000, 10, 10)
FITS = Prompt(frames=8, seed=4)
having_targets = pytest.mark.parametrize("name", sorted({*METHODS} - {"vanilla"}))


@dataclass(frozen=True)
class Costly(Method):
    """Many query rows for one late cut."""

    name: ClassVar[str] = "costly"

    @property
    def query_rows(self) -> int:
        return 64

    def cuts(self, shape: DecoderShape) -> tuple[int, ...]:
        return (shape.layers - 1,)

    def choose(self, cut: Cut) -> Tensor:
        raise AssertionError("there is nothing to choose")


def made(name: str, flops: float) -> Any:
    return METHODS[name](flops=flops)


@having_targets
def test_a_prompt_out_of_reach_is_pruned_as_far_as_the_method_goes(name: str) -> None:
    model, inputs = build(LlavaOnevision), batch(LlavaOnevision, [TEXT_HEAVY])
    with made(name, 0.5)(model) as run, pytest.warns(UserWarning, match="the prompt takes") as shown:
        model.generate(**inputs, **GREEDY)
    (warning,) = [str(each.message) for each in shown if "vanilla FLOPs" in str(each.message)]
    assert f"the least that {name} can do, not the 50.0% asked for" in warning
    length = len(inputs["input_ids"][0])
    assert f"{length - 32} of its {length} tokens are text" in warning
    assert f"{run.report.flops_ratio:.1%}" in warning
    assert 0.5 < run.report.flops_ratio < 1
    assert "tokens are text" in run.report.notes[0]["out_of_reach"]
    least = min(run.report.visual_tokens)
    assert run.report.visual_tokens[-1] == least


@having_targets
def test_strict_asks_for_an_error(name: str) -> None:
    model, inputs = build(LlavaOnevision), batch(LlavaOnevision, [TEXT_HEAVY])
    with made(name, 0.5)(model, strict=True), pytest.raises(BudgetError, match="out of reach, the lowest"):
        model.generate(**inputs, **GREEDY)


@torch.no_grad()
def test_the_other_prompts_of_a_batch_meet_the_target() -> None:
    model = build(LlavaOnevision)
    method = AdaTP(flops=0.5)
    with method(model) as alone:
        model(**batch(LlavaOnevision, [FITS]))
    with method(model) as run, pytest.warns(UserWarning, match="prompt 1 of 2 takes"):
        model(**batch(LlavaOnevision, [TEXT_HEAVY, FITS]))
    assert [n for _, n in run.report.visual_tokens] == [n for (n,) in alone.report.visual_tokens]
    assert alone.report.flops_ratio <= 0.5
    first, second = run.report.notes
    assert "out_of_reach" in first
    assert "out_of_reach" not in second


@pytest.mark.parametrize(
    ("method", "counts", "reason"),
    [
        (AdaTP(flops=0.2), PromptCounts(100, 900, 10), "900 of its 1000 tokens are text"),
        (AdaTP(flops=0.02, early="off"), VIDEO, "layers 0 to 1 read every visual token"),
        (
            METHODS["dycoke"](flops=0.1),
            VIDEO,
            "at least 1250 of 5000 visual tokens stay",
        ),
    ],
    ids=["text", "late", "whole-frames"],
)
def test_the_reason_is_the_prompts_own(method: Any, counts: PromptCounts, reason: str) -> None:
    shape = DecoderShape(
        layers=24, hidden=896, heads=14, kv_heads=2, head_dim=64, intermediate=4864, vocab=1000
    )
    with pytest.raises(BudgetError, match="out of reach") as error:
        method.schedule(shape, counts)
    assert reason in error.value.reason
    least = error.value.least
    assert least is not None
    assert error.value.lowest == pytest.approx(least.ratio, abs=1e-4)
    assert least.ratio > method.flops


def test_a_target_that_makes_no_sense_is_always_an_error() -> None:
    with pytest.raises(BudgetError, match="fraction of vanilla") as error:
        AdaTP(flops=0)
    assert error.value.least is None


@torch.no_grad()
def test_scores_that_cost_more_than_they_save_are_not_computed() -> None:
    """Few visual tokens and a long question: the least is to keep everything."""
    model = build(LlavaOnevision)
    inputs = batch(LlavaOnevision, [Prompt(frames=1, question=200)])
    expected = model(**inputs).logits
    with Costly(flops=0.9)(model) as run, pytest.warns(UserWarning, match=r"takes 100\.0%"):
        found = model(**inputs).logits
    assert run.report.flops_ratio == 1
    assert torch.equal(found, expected)
