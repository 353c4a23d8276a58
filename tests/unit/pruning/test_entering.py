"""Entering a context is all or nothing, and what it shows is what is documented."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from adatp import AdaTP
from adatp.engine import attention
from adatp.methods import VisionZip
from families import LlavaOnevision, Prompt, batch, build
from snapshots import snapshot

METHOD = VisionZip(flops=0.5)  # which has the tower's attention recorded as well
STEPS = [
    (nn.Module, "register_forward_pre_hook"),
    (nn.Module, "register_forward_hook"),
    (attention._Tap, "install"),
]


class Failed(Exception):  # noqa: N818
    """A step of entering did not work."""


def count_steps(monkeypatch: pytest.MonkeyPatch, fails_at: int | None) -> list[str]:
    """Note every step of entering; the one with number ``fails_at`` raises."""
    steps: list[str] = []

    def counted(do: Any) -> Any:
        def step(*args: Any, **kwargs: Any) -> Any:
            steps.append(do.__name__)
            if len(steps) - 1 == fails_at:
                raise Failed(do.__name__)
            return do(*args, **kwargs)

        return step

    for owner, name in STEPS:
        monkeypatch.setattr(owner, name, counted(getattr(owner, name)))
    return steps


def enter_and_leave(model: Any) -> None:
    with METHOD(model, reuse_frames=0.0):
        pass


def test_whatever_step_of_entering_fails_nothing_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    model = build(LlavaOnevision)
    before = snapshot(model)
    with monkeypatch.context() as patch:
        steps = count_steps(patch, None)
        enter_and_leave(model)
    assert snapshot(model) == before
    assert {*steps} == {name for _, name in STEPS}
    for number in range(len(steps)):
        with monkeypatch.context() as patch:
            count_steps(patch, number)
            with pytest.raises(Failed):
                enter_and_leave(model)
        after = snapshot(model)
        hooks = {name: part["hooks"] for name, part in after.items() if name != "state"}
        assert hooks == {name: part["hooks"] for name, part in before.items() if name != "state"}, number
        enter_and_leave(model)  # nor is the model still taken


def test_the_compiled_forward_is_given_back_if_it_can_not_be_replaced() -> None:
    class Guarded(type(build(LlavaOnevision))):  # type: ignore[misc]
        def __setattr__(self, name: str, value: Any) -> None:
            if name == "get_compiled_call":
                raise Failed(name)
            super().__setattr__(name, value)

    model = Guarded(LlavaOnevision.config()).eval()
    before = snapshot(model)
    with pytest.raises(Failed):
        enter_and_leave(model)
    assert snapshot(model) == before


def test_a_run_shows_what_is_documented() -> None:
    with AdaTP(flops=0.5)(build(LlavaOnevision)) as run:
        shown = {name for name in dir(run) if not name.startswith("_")}
    assert shown >= {"method", "report", "reports", "layouts"}
    for name in shown:
        assert getattr(type(run), name).__doc__


def test_reports_do_not_change_when_they_are_looked_at() -> None:
    model, inputs = build(LlavaOnevision), batch(LlavaOnevision, [Prompt()])
    with AdaTP(flops=0.5)(model) as run:
        cache = model(**inputs).past_key_values
        report = run.report
        assert report.flops.decode == 0
        model(input_ids=torch.tensor([[5]]), past_key_values=cache)
        held = vars(report).copy()
        first = report.flops.decode
        assert run.report is run.reports[-1] is report
        assert report.flops.decode == first > 0
        assert report.to_json() == report.to_json()
        assert vars(report) == held
