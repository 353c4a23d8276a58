"""A context that is open for long does not grow with its requests."""

from __future__ import annotations

import gc
import pickle
import weakref
from typing import Any

import pytest
import torch
from torch import Tensor

from adatp.pruning import run as runs
from adatp.report import Stopwatch
from families import COMPLETE, InternVL, LlavaOnevision, Prompt, batch, build
from pretend_gpu import PretendedGPU
from suite import GREEDY, LATE, ONE

GREEDY_SHORT: dict[str, Any] = {**GREEDY, "min_new_tokens": 2, "max_new_tokens": 2}


def test_the_last_reports_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    assert runs.KEPT_REPORTS == 1000
    model, inputs = build(LlavaOnevision), batch(LlavaOnevision, ONE)
    monkeypatch.setattr(runs, "KEPT_REPORTS", 3)
    with torch.no_grad(), LATE(model) as run:
        first = None
        for _ in range(5):
            model(**inputs)
            first = first or weakref.ref(run.report)
        assert len(run.reports) == 3
        assert run.report is run.reports[-1]
        assert run.reports == run.reports  # and looking at them changes nothing
    gc.collect()
    assert first is not None
    assert first() is None


@pytest.mark.parametrize("prompts", [ONE, [Prompt(seed=1), Prompt(seed=2, before=9)]], ids=["one", "two"])
def test_reports_keep_nothing_on_the_device(prompts: list[Prompt]) -> None:
    model, inputs = build(LlavaOnevision), batch(LlavaOnevision, prompts)
    with PretendedGPU(watched=__file__) as gpu, torch.no_grad():
        gpu.put(model)
        with LATE(model) as run:
            model.generate(**gpu.put(inputs), **GREEDY_SHORT)
        kept = run.report.kept
        assert all(positions.device.type == "cpu" for layer in kept for positions in layer)
    assert all(positions.dtype == torch.int64 for layer in kept for positions in layer)
    assert kept[-1][0] is kept[-2][0]  # after the last cut layers share one
    assert kept[-1][0].untyped_storage().nbytes() == kept[-1][0].nbytes


def test_time_is_summed_up() -> None:
    watch = Stopwatch(torch.device("cpu"))

    def size() -> int:
        return len(pickle.dumps(vars(watch)))

    with watch.time("decode"):
        pass
    before = size()
    for _ in range(1000):
        with watch.time("decode"):
            pass
    assert size() <= before + 16
    assert watch.milliseconds()["decode"] > 0


def test_events_of_a_gpu_are_summed_up_when_they_are_over(monkeypatch: pytest.MonkeyPatch) -> None:
    alive: set[int] = set()
    ticks = iter(range(10**6))

    class Event:
        def __init__(self, *, enable_timing: bool) -> None:
            alive.add(id(self))

        def __del__(self) -> None:
            alive.discard(id(self))

        def record(self) -> None:
            self.at = next(ticks)

        def synchronize(self) -> None:
            """Long over."""

        def elapsed_time(self, end: Event) -> float:
            return end.at - self.at

    monkeypatch.setattr(torch.cuda, "Event", Event)
    monkeypatch.setattr(torch.cuda, "synchronize", lambda: None)
    watch = Stopwatch(torch.device("cuda"))
    for _ in range(2000):
        with watch.time("decode"):
            pass
    assert len(alive) <= 2 * 256
    assert watch.milliseconds() == {"decode": 2000}
    assert not alive
    assert watch.milliseconds() == {"decode": 2000}


@pytest.mark.parametrize("family", COMPLETE, ids=lambda family: family.name)
@torch.no_grad()
def test_no_pixels_stay_alive(family: Any) -> None:
    model = build(family)
    pixels: list[weakref.ref[Tensor]] = []
    with LATE(model) as run:
        for seed in range(3):
            inputs = batch(family, [Prompt(seed=seed)])
            pixels += [weakref.ref(part) for part in inputs.values() if part.is_floating_point()]
            model(**inputs)
            del inputs
        gc.collect()
        assert len(run.reports) == 3
        assert len(pixels) >= 3
        assert not any(each() is not None for each in pixels)


@torch.no_grad()
def test_features_of_a_failed_call_do_not_stay_either() -> None:
    model, inputs = build(InternVL), batch(InternVL, ONE)
    gone = weakref.ref(inputs["pixel_values"])
    with LATE(model):
        handle = model.base_model.multi_modal_projector.register_forward_hook(lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            model(**inputs)
        handle.remove()
        del inputs
        gc.collect()
        assert gone() is None
