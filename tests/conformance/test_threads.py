"""Several threads generate on one model in one context: each gets what it would get by itself."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import torch
from torch import Tensor

import fake_flash
from adatp.methods.adatp import AdaTP
from adatp.methods.base import Method
from adatp.methods.fastv import FastV
from adatp.methods.vanilla import Vanilla
from adatp.methods.visionzip import VisionZip
from adatp.models import decoder_of
from families import FAMILIES, LlavaOnevision, Prompt, batch, build
from suite import EARLY, GREEDY, LATE, generated_logits

PROMPTS = [Prompt(frames=4 + 2 * n, seed=n, question=4 + n) for n in range(4)]
# Qwen-VL and GLM keep the rope deltas of the last call on the model: threads that generate mix them up, also
# without adatp. A call without a cache does not read them, and prompts of equal shape have equal ones.
KEEPING = [family for family in FAMILIES if family.multimodal_rope]


def in_threads(tasks: list[Callable[[], Any]]) -> list[Any]:
    """Results of tasks that all run at once."""
    ready = threading.Barrier(len(tasks))

    def run(task: Callable[[], Any]) -> Any:
        ready.wait()
        return task()

    with ThreadPoolExecutor(len(tasks)) as pool:
        return [each.result() for each in [pool.submit(run, task) for task in tasks]]


def taking_turns(model: Any) -> None:
    """Make threads change places within every layer, not only where Python happens to let go."""

    def let_others_run(*_: Any) -> None:
        time.sleep(0.0005)

    for layer in [*decoder_of(model).layers, decoder_of(model), model.base_model]:
        for register in (layer.register_forward_pre_hook, layer.register_forward_hook):
            register(let_others_run)
        attention = getattr(layer, "self_attn", None)
        if attention is not None:
            attention.q_proj.register_forward_hook(let_others_run)
            attention.o_proj.register_forward_pre_hook(let_others_run)


@pytest.mark.parametrize("attention", ["sdpa", fake_flash.NAME])
@pytest.mark.parametrize(
    "method", [LATE, EARLY, Vanilla(), FastV(flops=0.6), VisionZip(flops=0.5)], ids=lambda m: m.name
)
def test_threads_do_not_see_each_other(method: Method, attention: str) -> None:
    model = build(LlavaOnevision, attention)
    inputs = [batch(LlavaOnevision, [prompt]) for prompt in PROMPTS]
    expected, reports = [], []
    for each in inputs:
        with method(model) as run:
            expected.append(generated_logits(model.generate(**each, **GREEDY)))
        reports.append(run.report)
    taking_turns(model)
    with method(model) as run:
        found = in_threads([lambda each=each: model.generate(**each, **GREEDY) for each in inputs])
        assert len(run.reports) == len(PROMPTS)
        by_length = {report.prompt_tokens[0]: report for report in run.reports}
    for mine, alone, report in zip(found, expected, reports, strict=True):
        assert torch.equal(generated_logits(mine), alone)
        noted = by_length[report.prompt_tokens[0]]
        assert noted.tokens == report.tokens
        assert noted.flops == report.flops
        assert noted.decode_steps == report.decode_steps
        assert noted.milliseconds["vision"] > 0


@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.name)
@torch.no_grad()
def test_threads_of_every_family(family: Any) -> None:
    model = build(family)
    inputs = [batch(family, [prompt]) for prompt in PROMPTS]

    def call(each: dict[str, Tensor]) -> Tensor:
        with torch.no_grad():
            return model(**each, use_cache=False).logits

    method = AdaTP(flops=0.6)
    with method(model):
        expected = [call(each) for each in inputs]
    taking_turns(model)
    with method(model) as run:
        found = in_threads([lambda each=each: call(each) for each in inputs])
    assert len(run.reports) == len(PROMPTS)
    assert all(map(torch.equal, found, expected))


@pytest.mark.parametrize("family", KEEPING, ids=lambda family: family.name)
def test_threads_generate_where_the_model_keeps_what_is_equal_for_all(family: Any) -> None:
    model = build(family)
    inputs = [batch(family, [Prompt(frames=4, seed=seed, question=5)]) for seed in range(3)]
    method = AdaTP(flops=0.6)

    def generate(each: dict[str, Tensor]) -> Tensor:
        return generated_logits(model.generate(**each, **GREEDY))

    with method(model):
        expected = [generate(each) for each in inputs]
        assert not torch.equal(expected[0], expected[1])
        taking_turns(model)
    with method(model) as run:
        found = in_threads([lambda each=each: generate(each) for each in inputs])
    assert all(map(torch.equal, found, expected))
    steps = [report.decode_steps for report in run.reports]
    assert steps == [GREEDY["max_new_tokens"] - 1] * len(inputs)
