"""On a pretended GPU: nothing mixes devices, no layer waits, and the result is the CPU's."""

from __future__ import annotations

import copy
from collections import Counter
from itertools import pairwise
from typing import Any

import pytest
import torch

import adatp
from adatp import AdaTP
from adatp.methods import METHODS, FastVID, HoliTom, VisionZip
from adatp.report import Stopwatch
from agreement import Agree
from families import COMPLETE, FAMILIES, LlavaOnevision, Prompt, Qwen3VL, batch, build
from pretend_gpu import DEVICE, PretendedGPU
from rounding import limit
from suite import EARLY, LATE, ONE, RAGGED

SOURCE = adatp.__file__.removesuffix("__init__.py")
GREEDY: dict[str, Any] = {"do_sample": False, "min_new_tokens": 3, "max_new_tokens": 3}


def generate(model: Any, inputs: dict[str, Any], method: AdaTP) -> tuple[Any, Any]:
    with torch.no_grad(), method(model) as run:
        output = model.generate(**inputs, **GREEDY, return_dict_in_generate=True, output_logits=True)
    return torch.stack(output.logits, 1), run.report


CASES = [
    *(pytest.param(family, ONE, LATE, id=f"{family.name}-one-late") for family in COMPLETE),
    *(pytest.param(family, RAGGED, EARLY, id=f"{family.name}-ragged-early") for family in COMPLETE),
    *(
        pytest.param(family, ONE, EARLY, id=f"{family.name}-one-early")
        for family in FAMILIES
        if family not in COMPLETE
    ),
]
"""What others have of their own, layout and tower, is read once a prompt, and most for an early cut."""


@pytest.mark.parametrize(("family", "prompts", "method"), CASES)
def test_what_the_cpu_does_and_no_layer_waits(
    family: Any, prompts: list[Prompt], method: AdaTP, agree: Agree
) -> None:
    model, inputs = build(family), batch(family, prompts)
    logits, report = generate(copy.deepcopy(model), inputs, method)
    with PretendedGPU(watched=SOURCE) as gpu:
        gpu.put(model)
        assert model.device == DEVICE
        there, noted = generate(model, gpu.put(inputs), method)
        agree(there.cpu(), logits, within=limit(family))
    assert noted.visual_tokens == report.visual_tokens
    # Planning reads the prompt and what the tower tells of the frames. Hooks of layers read nothing, in
    # prefill and in decode; AdaTP does where it chooses before the first layer alone.
    waiting = {place.split(":")[0].removeprefix(SOURCE) for place in gpu.waits}
    assert not {place for place in waiting if place.startswith("engine/")}
    assert waiting.isdisjoint({"methods/token_plan.py", "adatp_steps/debias.py"})
    assert max(Counter(gpu.waits).values()) <= max(2, len(prompts))


OPTIONS: list[dict[str, Any]] = [
    {"duplicates": "video", "ranking": "both", "early": "on"},
    {"ranking": "random", "prior": "video", "first_layers": 2, "start": 3},
    {"shares": "distinct", "soften": True, "merge": 0.5, "early": "off"},
]
OTHERS = [kind(flops=0.8) for kind in METHODS.values() if kind.flops is not None and kind is not AdaTP]
EVERY = [*OTHERS, *(kind(flops=0.8, sink=0.1) for kind in (VisionZip, FastVID, HoliTom))]
EVERY += [AdaTP(flops=0.6, **option) for option in OPTIONS]


@pytest.mark.parametrize("method", EVERY, ids=lambda method: method.name)
def test_every_method_chooses_what_it_chooses_on_the_cpu(method: Any) -> None:
    model, inputs = build(LlavaOnevision), batch(LlavaOnevision, [Prompt(frames=12, question=8)])
    with method(model) as run, torch.no_grad():
        model(**inputs)
    expected = run.report
    with PretendedGPU(watched=SOURCE) as gpu, torch.no_grad():
        gpu.put(model)
        there = gpu.put(inputs)
        with method(model) as run:
            model(**there)
        found = [[row.cpu().tolist() for row in layer] for layer in run.report.kept]
    assert found == [[row.tolist() for row in layer] for layer in expected.kept]


def launched(family: Any, prompts: list[Prompt], method: AdaTP) -> tuple[int, int, int]:
    """Kernels of ours and waits of one prefill, and its cuts."""
    model, inputs = build(family), batch(family, prompts)
    with PretendedGPU(watched=SOURCE) as gpu, torch.no_grad():
        gpu.put(model)
        there = gpu.put(inputs)
        with method(model) as run:
            model(**there)
    kept = run.report.visual_tokens
    return len(gpu.launches), len(gpu.waits), sum(a != b for a, b in pairwise(kept))


def test_a_cut_launches_few_kernels() -> None:
    """Two runs that differ by their cuts alone: what is launched besides falls out of the difference."""
    few, waits, one = launched(LlavaOnevision, ONE, AdaTP(flops=0.6, start=2, end=2, early="off"))
    many, waits_too, three = launched(LlavaOnevision, ONE, AdaTP(flops=0.6, start=2, end=4, early="off"))
    assert (one, three) == (1, 3)
    assert (many - few) / 2 <= 50
    assert waits == waits_too <= 4


def test_times_are_taken_by_events_and_nothing_waits_before_they_are_read(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    ticks, waited = iter(range(100)), []

    class Event:
        def __init__(self, *, enable_timing: bool) -> None:
            assert enable_timing

        def record(self) -> None:
            self.at = next(ticks)

        def elapsed_time(self, end: Event) -> float:
            assert waited
            return end.at - self.at

    monkeypatch.setattr(torch.cuda, "Event", Event)
    monkeypatch.setattr(torch.cuda, "synchronize", lambda: waited.append(True))
    watch = Stopwatch(torch.device("cuda"))
    with watch.time("prefill"), watch.time("pruning"):
        pass
    with watch.time("pruning"):
        pass
    assert not waited
    assert watch.milliseconds() == {"pruning": 2, "prefill": 3}


@pytest.mark.parametrize("broken", ["device", "wait"])
def test_it_notices(broken: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from adatp.engine import hooks

    take_rows = hooks.take_rows

    def breaks(states: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
        return states.index_select(1, rows[0].cpu())

    def waits(states: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
        assert int(rows.max()) < states.shape[1]
        return take_rows(states, rows)

    monkeypatch.setattr(hooks, "take_rows", {"device": breaks, "wait": waits}[broken])
    model, inputs = build(Qwen3VL), batch(Qwen3VL, ONE)
    with PretendedGPU(watched=__file__) as gpu, torch.no_grad():
        gpu.put(model)
        inputs = gpu.put(inputs)
        if broken == "device":
            with pytest.raises(RuntimeError, match="two devices"):
                generate(model, inputs, LATE)
        else:
            generate(model, inputs, LATE)
            assert gpu.waits
