"""Settings that every method has, in the forms that users give them in."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from adatp.errors import AdaTPError
from adatp.methods import METHODS
from families import LlavaOnevision, Prompt, batch, build

TARGETED: list[Any] = [method for method in METHODS.values() if method().flops is not None]
methods = pytest.mark.parametrize("method", TARGETED, ids=lambda method: method.name)


@methods
@torch.no_grad()
def test_a_target_may_be_numpys(method: Any) -> None:
    model, inputs = build(LlavaOnevision), batch(LlavaOnevision, [Prompt(frames=8)])
    runs = []
    for target in (0.5, np.float32(0.5)):
        with method(flops=target)(model) as run:
            model(**inputs)
        runs.append(run.report)
    assert runs[0].settings == runs[1].settings
    assert runs[0].to_json() is not None
    assert [len(layer[0]) for layer in runs[0].kept] == [len(layer[0]) for layer in runs[1].kept]


@methods
def test_what_is_no_target_is_refused(method: Any) -> None:
    for flops in ("0.5", True, 0, 1.5, float("nan"), [0.5]):
        with pytest.raises(AdaTPError, match=r"flops is a number|a fraction of vanilla"):
            method(flops=flops)
