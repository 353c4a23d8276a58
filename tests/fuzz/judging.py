"""What is known of a played request, and whether it is right: against the same model with masks."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, fields, replace
from typing import Any

import pytest
import torch
from torch import Tensor

from adatp.methods.token_plan import TokenPlan
from oracle import Record, masked_logits
from rounding import FLOAT64
from scenarios import Scenario


class WrongError(AssertionError):
    """Something came out that should not have."""


def demand(right: bool, what: str) -> None:
    if not right:
        raise WrongError(what)


@dataclass
class Merged:
    """The tokens that one cut averaged, by positions in the complete sequence."""

    layer: int
    sample: int
    kept: Tensor
    alive: Tensor
    into: Tensor


@dataclass
class Call:
    """One call of the model: its tokens, logits of the last or all of them, what it was reported to keep."""

    start: int
    length: int
    logits: Tensor
    report: Any = None


@dataclass
class Noted:
    """Everything about the checked request."""

    calls: list[Call] = field(default_factory=list)
    merged: list[Merged] = field(default_factory=list)
    real: Tensor = field(default_factory=lambda: torch.ones(0, 0, dtype=torch.bool))


def take(noted: Noted, model: Any, arguments: dict[str, Any], run: Any, merged: list[Merged]) -> None:
    """One call, with what it was reported to keep."""
    before, start = len(run.reports), sum(call.length for call in noted.calls)
    merged.clear()
    logits = model(**arguments).logits
    new = arguments["input_ids"].shape[1]
    demand(logits.shape[1] == new, "logits of a call are as many as its tokens")
    noted.calls.append(Call(start, new, logits, run.reports[-1] if len(run.reports) > before else None))
    for each in merged:
        noted.merged.append(Merged(each.layer, each.sample, each.kept + start, each.alive + start, each.into))
    noted.real = torch.nn.functional.pad(noted.real, (0, start + new - noted.real.shape[1]), value=True)


@contextmanager
def merges() -> Iterator[list[Merged]]:
    """What cuts average while the block runs."""
    merged: list[Merged] = []
    select = TokenPlan.select

    def watched(plan: Any, layer: int, sample: int, alive: Tensor, *rest: Any) -> Any:
        selection = select(plan, layer, sample, alive, *rest)
        if selection.into is not None:
            merged.append(Merged(layer, sample, selection.kept, alive, selection.into))
        return selection

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(TokenPlan, "select", watched)
        yield merged


def kept_positions(noted: Noted, layers: int, copies: int = 1) -> list[list[Tensor]]:
    """``[layer][sample]``: positions of the complete sequence that no cut has dropped."""
    observed = noted.real.expand(layers, -1, -1).clone()
    for call in noted.calls:
        for layer, by_sample in enumerate(call.report.kept if call.report is not None else ()):
            for sample, positions in enumerate(by_sample[::copies]):
                part = torch.zeros(call.length, dtype=torch.bool)
                part[positions - call.start] = True
                observed[layer, sample, call.start : call.start + call.length] &= part
    return [[row.nonzero()[:, 0] for row in layer] for layer in observed]


@contextmanager
def averaged(model: Any, merged: list[Merged]) -> Iterator[None]:
    """Cuts average in this unpruned run as well."""

    def hook(layer: int) -> Any:
        def average(_: Any, args: Any, kwargs: Any) -> Any:
            states = args[0].clone()
            for each in merged:
                if each.layer == layer:
                    for number, position in enumerate(each.kept):
                        group = each.alive[each.into == number]
                        states[each.sample, position] = args[0][each.sample, group].mean(0)
            return (states, *args[1:]), kwargs

        return average

    layers = model.get_decoder().layers
    handles = [
        layers[number].register_forward_pre_hook(hook(number), with_kwargs=True)
        for number in sorted({each.layer for each in merged})
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def reference(model: Any, record: Record, noted: Noted, kept: list[list[Tensor]]) -> Tensor:
    with averaged(model, noted.merged):
        return masked_logits(model, record, kept, noted.real)


def compare(model: Any, record: Record, noted: Noted) -> None:
    """Logits of every token that all layers processed, in every call."""
    record = last_calls(record, len(noted.calls))
    kept = kept_positions(noted, len(model.get_decoder().layers))
    expected = reference(model, record, noted, kept)
    for number, call in enumerate(noted.calls):
        end = call.start + call.length
        first = end - call.logits.shape[1]
        for sample, positions in enumerate(kept[-1]):
            there = positions[(positions >= first) & (positions < end)]
            found = call.logits[sample, there - first]
            error = (found - expected[sample, there]).abs().max().item() if len(there) else 0.0
            demand(error <= FLOAT64, f"call {number}: logits differ by {error:.3g} from masking")


def last_calls(record: Record, count: int) -> Record:
    """Of a record those of the request that is checked."""
    parts = {field.name: getattr(record, field.name) for field in fields(record)}
    lists = {name: part for name, part in parts.items() if isinstance(part, list)}
    return replace(record, **{name: part[max(0, len(part) - count) :] for name, part in lists.items()})


def check_reports(scenario: Scenario, noted: Noted) -> None:
    """The target is met in a first turn; layers keep ever fewer tokens, and all that is no video's."""
    target = scenario.method.flops
    for call in noted.calls:
        if call.report is None:
            continue
        for above, below in zip(call.report.kept, call.report.kept[1:], strict=False):
            for larger, smaller in zip(above, below, strict=True):
                demand(bool(torch.isin(smaller, larger).all()), "a later layer keeps what was dropped before")
                demand(bool((smaller.diff() > 0).all()), "kept positions are not in order")
        reached = not any("out_of_reach" in notes for notes in call.report.notes)
        if not scenario.ragged and target is not None and reached:
            demand(call.report.flops_ratio <= target, f"{call.report.flops_ratio:.4f} FLOPs at {target}")
