"""Attention kernels that are planned for each length stay off while layers differ in length."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch

from adatp import AdaTP
from adatp.engine import hooks
from adatp.engine.kernels import NoPlannedKernels, plans_lengths
from families import LlavaOnevision, batch, build
from suite import GREEDY, LATE, ONE

cuda: Any = torch.backends.cuda


@pytest.fixture(autouse=True)
def planned(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Small models are taken for models on a GPU; in the end the switch is where it was."""
    monkeypatch.setattr(hooks, "plans_lengths", lambda device: True)
    before = cuda.cudnn_sdp_enabled()
    yield
    cuda.enable_cudnn_sdp(before)


def watched(model: Any) -> list[bool]:
    """Whether cuDNN's attention may be taken, at every call of the model's last layer from now on."""
    observed: list[bool] = []
    model.get_decoder().layers[-1].register_forward_pre_hook(
        lambda *_: observed.append(cuda.cudnn_sdp_enabled())
    )
    return observed


@pytest.mark.parametrize("allowed", [True, False])
def test_off_in_prefill_and_decode_and_afterwards_as_before(allowed: bool) -> None:
    cuda.enable_cudnn_sdp(allowed)
    model, inputs = build(LlavaOnevision), batch(LlavaOnevision, ONE)
    observed = watched(model)
    with LATE(model) as run:
        model.generate(**inputs, **GREEDY)
        assert cuda.cudnn_sdp_enabled() == allowed
    assert run.report.flops_ratio < 1
    assert len(observed) > 2
    assert not any(observed)


def test_keeping_all_leaves_the_kernels_alone() -> None:
    cuda.enable_cudnn_sdp(True)
    model, inputs = build(LlavaOnevision), batch(LlavaOnevision, ONE)
    observed = watched(model)
    with AdaTP(flops=1.0)(model):
        model.generate(**inputs, **GREEDY)
    model.generate(**inputs, **GREEDY)
    assert all(observed)


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_on_again_when_a_call_ends_early(error: type[BaseException]) -> None:
    cuda.enable_cudnn_sdp(True)
    model, inputs = build(LlavaOnevision), batch(LlavaOnevision, ONE)

    def stop(*_: Any) -> None:
        raise error

    handle = model.get_decoder().layers[3].register_forward_pre_hook(stop)
    with pytest.raises(error), LATE(model):
        model(**inputs)
    assert cuda.cudnn_sdp_enabled()
    handle.remove()


def test_calls_at_once_switch_it_on_with_the_last_one() -> None:
    cuda.enable_cudnn_sdp(True)
    one, two = NoPlannedKernels(), NoPlannedKernels()
    one.end()
    one.end()
    assert not cuda.cudnn_sdp_enabled()
    two.end()
    assert cuda.cudnn_sdp_enabled()


def test_only_gpus_have_such_kernels() -> None:
    assert plans_lengths(torch.device("cuda", 1))
    assert not plans_lengths(torch.device("cpu"))
