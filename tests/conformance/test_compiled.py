"""What was compiled before a context is entered does not ask for hooks: it runs as plain Python inside."""

from __future__ import annotations

import copy
import logging
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import pytest
import torch

from adatp import AdaTP
from adatp.models import decoder_of
from families import LlavaOnevision, batch, build
from suite import GREEDY, LATE, ONE, dropped, generated_logits

pytestmark = [
    pytest.mark.filterwarnings("ignore:Dynamo does not know how to trace"),
    pytest.mark.filterwarnings("ignore:compiled code runs as plain Python"),
]


@pytest.fixture(autouse=True)
def fresh(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Nothing is compiled yet. Dynamo's own trace, which pytest would collect, takes most of the time."""
    monkeypatch.setattr(logging.getLogger("torch.__trace"), "disabled", True)
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


def of_model(model: Any) -> Any:
    model.compile(backend="eager")
    return model


def of_forward(model: Any) -> Any:
    model.forward = torch.compile(model.forward, backend="eager")
    return model


def of_decoder(model: Any) -> Any:
    decoder_of(model).compile(backend="eager")
    return model


def of_layers(model: Any) -> Any:
    for layer in decoder_of(model).layers:
        layer.forward = torch.compile(layer.forward, backend="eager")
    return model


def wrapped_decoder(model: Any) -> Any:
    model.model.language_model = torch.compile(model.model.language_model, backend="eager")
    return model


WAYS: list[Callable[[Any], Any]] = [of_model, of_forward, of_decoder, of_layers, wrapped_decoder]


@pytest.mark.parametrize("way", WAYS, ids=lambda way: way.__name__)
@torch.no_grad()
def test_a_model_that_was_compiled_is_pruned(way: Any) -> None:
    model, inputs = build(LlavaOnevision), batch(LlavaOnevision, ONE)
    vanilla = model(**inputs, use_cache=False).logits
    with LATE(model):
        expected = model(**inputs, use_cache=False).logits
    compiled = way(model)
    before = {name: dict(vars(module)) for name, module in model.named_modules()}
    assert torch.equal(compiled(**inputs, use_cache=False).logits, vanilla)
    with ExitStack() as stack:
        with pytest.warns(UserWarning, match="compiled code runs as plain Python"):
            run = stack.enter_context(LATE(compiled))
        assert torch.equal(compiled(**inputs, use_cache=False).logits, expected)
        assert dropped(run)
    assert {name: dict(vars(module)) for name, module in model.named_modules()} == before
    assert torch.equal(compiled(**inputs, use_cache=False).logits, vanilla)


@pytest.mark.parametrize(
    ("given", "called"), [("model", "plainly"), ("wrapper", "plainly"), ("model", "generate")]
)
@torch.no_grad()
def test_a_wrapper_made_before_is_pruned(given: str, called: str) -> None:
    """Also where the context was given the model itself, which knows of no wrapper."""
    model, inputs = build(LlavaOnevision), batch(LlavaOnevision, ONE)

    def ask(asked: Any) -> torch.Tensor:
        if called == "generate":
            return generated_logits(asked.generate(**inputs, **GREEDY))
        logits: torch.Tensor = asked(**inputs, use_cache=False).logits
        return logits

    vanilla = ask(model)
    with LATE(model):
        expected = ask(model)
    wrapper = torch.compile(model, backend="eager")
    assert torch.equal(ask(wrapper), vanilla)
    with LATE(model if given == "model" else wrapper) as run:
        assert torch.equal(ask(wrapper), expected)
        assert dropped(run)
        assert len(run.reports) == 1
        assert torch.equal(ask(model), expected)
    assert torch.equal(ask(wrapper), vanilla)
    assert torch.equal(ask(model), vanilla)


@torch.no_grad()
def test_a_copy_made_inside_does_not_run_the_original() -> None:
    model, inputs = build(LlavaOnevision), batch(LlavaOnevision, ONE)
    with AdaTP(flops=1.0)(model):
        twin = copy.deepcopy(model)
        for parameter in twin.parameters():
            parameter.zero_()
        assert not twin(**inputs).logits.any()
        assert model(**inputs).logits.any()
