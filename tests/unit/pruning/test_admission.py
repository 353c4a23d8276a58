"""Entering: wrappers are looked into, no layers are pruned twice, and a lost context gives its model back."""

from __future__ import annotations

import gc
import sys
import threading
import weakref
from typing import Any

import pytest
import torch
from torch import nn

from adatp import PruningError, UnsupportedModelError
from families import LlavaOnevision, batch, build
from suite import GREEDY, LATE, ONE, dropped, generated_logits


class Adapter(nn.Module):
    """A wrapper with the interface of PEFT's models."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.base_model = model

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(super().__getattr__("base_model"), name)

    def get_base_model(self) -> Any:
        return self.base_model

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        return self.base_model(*args, **kwargs)

    def generate(self, *args: Any, **kwargs: Any) -> Any:
        return self.base_model.generate(*args, **kwargs)


def hooks(model: nn.Module) -> list[int]:
    """Those of all parts; transformers puts some in place itself when a model first runs."""
    return [key for part in model.modules() for key in (*part._forward_hooks, *part._forward_pre_hooks)]


def test_an_adapted_model_is_pruned() -> None:
    model, inputs = build(LlavaOnevision), batch(LlavaOnevision, ONE)
    with LATE(model):
        expected = generated_logits(model.generate(**inputs, **GREEDY))
    before = hooks(model)
    adapted = Adapter(Adapter(model))
    with LATE(adapted) as run:
        assert torch.equal(generated_logits(adapted.generate(**inputs, **GREEDY)), expected)
        assert dropped(run)
        with pytest.raises(PruningError, match="already"):
            LATE(model).__enter__()
    assert hooks(model) == before
    with pytest.raises(UnsupportedModelError, match="Linear"):
        LATE(Adapter(nn.Linear(2, 2)))


@pytest.mark.parametrize("shared", ["model", "decoder", "layers"])
def test_two_wrappers_around_the_same_layers_do_not_both_enter(shared: str) -> None:
    model, other = build(LlavaOnevision), build(LlavaOnevision)
    if shared == "model":
        other.model = model.model
    elif shared == "decoder":
        other.model.language_model = model.model.language_model
    else:
        other.model.language_model.layers = model.model.language_model.layers
    with LATE(model):
        with pytest.raises(PruningError, match="already"):
            LATE(other).__enter__()
        assert not other._forward_pre_hooks
    with LATE(other):
        pass
    assert not hooks(model)
    assert not hooks(other)


@torch.no_grad()
def test_a_context_that_was_entered_and_lost_gives_the_model_back() -> None:
    model, inputs = build(LlavaOnevision), batch(LlavaOnevision, ONE)
    expected = model(**inputs).logits
    before = hooks(model)
    run = LATE(model).__enter__()  # who reads what it does goes on pruning
    gc.collect()
    assert not torch.equal(model(**inputs).logits, expected)
    assert dropped(run)
    with pytest.warns(ResourceWarning, match="entered and lost"):
        del run
    assert hooks(model) == before
    assert torch.equal(model(**inputs).logits, expected)
    with LATE(model) as again:
        model(**inputs)
    assert dropped(again)


def test_a_run_that_stays_readable_does_not_keep_the_model() -> None:
    model = build(LlavaOnevision)
    gone = weakref.ref(model)
    with LATE(model) as run, torch.no_grad():
        model(**batch(LlavaOnevision, ONE))
    del model
    gc.collect()
    assert gone() is None
    assert run.report.flops_ratio < 1


def test_a_context_can_be_entered_again() -> None:
    model, inputs = build(LlavaOnevision), batch(LlavaOnevision, ONE)
    with torch.no_grad():
        model(**inputs)
    before, context = hooks(model), LATE(model)
    for _ in range(2):
        with context as run, torch.no_grad():
            model(**inputs)
        assert len(run.reports) == 1
        assert hooks(model) == before
    context.__exit__()


def test_of_many_threads_one_enters() -> None:
    """At every try, however they are interleaved: the others are refused and leave nothing in place."""
    model, count, rounds = build(LlavaOnevision), 8, 30
    start, end = threading.Barrier(count), threading.Barrier(count)
    entered: list[int] = []
    refused: list[str] = []

    def enter(number: int) -> None:
        for _ in range(rounds):
            start.wait()
            context = LATE(model)
            try:
                context.__enter__()
            except PruningError as error:
                refused.append(str(error))
                end.wait()
            else:
                entered.append(number)
                end.wait()  # nobody leaves before all have tried
                context.__exit__(None, None, None)

    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        threads = [threading.Thread(target=enter, args=(number,)) for number in range(count)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        sys.setswitchinterval(before)
    assert len(entered) == rounds
    assert len(refused) == rounds * (count - 1)
    assert {*refused} == {"this model is being pruned already: leave that context first"}
    assert not hooks(model)
    with LATE(model):
        pass
