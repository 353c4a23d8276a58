"""Reports as JSON: valid whatever methods put into them."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from adatp import AdaTP
from adatp.report import to_json
from families import LlavaOnevision, batch, build
from suite import ONE


def strictly(text: str) -> Any:
    """Read JSON as other languages do: without Python's NaN and Infinity."""

    def refuse(word: str) -> None:
        raise AssertionError(f"{word} is no JSON")

    return json.loads(text, parse_constant=refuse)


@torch.no_grad()
def test_a_report_with_what_json_lacks() -> None:
    model = build(LlavaOnevision)
    settings: dict[str, Any] = {"flops": np.float32(0.5), "tau_r": math.inf, "max_queries": np.int64(16)}
    with AdaTP(**settings)(model) as run:
        model(**batch(LlavaOnevision, ONE))
    notes = [{**run.report.notes[0], "frame_relevance": [math.nan, -math.inf, np.float64(1)]}]
    noted = strictly(replace(run.report, notes=notes).to_json())
    assert noted["settings"]["tau_r"] == "Infinity"
    assert float(noted["settings"]["tau_r"]) == math.inf
    assert noted["settings"]["max_queries"] == 16
    assert noted["settings"]["flops"] == 0.5
    assert noted["samples"][0]["frame_relevance"] == ["NaN", "-Infinity", 1.0]
    assert noted["kept"] == [[part.tolist() for part in layer] for layer in run.report.kept]


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (np.arange(3), [0, 1, 2]),
        (torch.tensor([[0.5], [math.inf]]), [[0.5], ["Infinity"]]),
        ({np.int64(3): (1, None, True)}, {"3": [1, None, True]}),
        (np.bool_(True), True),
        (np.float32("nan"), "NaN"),
        (
            {"device": torch.device("cpu"), "dtype": torch.float32},
            {"device": "cpu", "dtype": "torch.float32"},
        ),
        ({"what": {1}}, {"what": [1]}),
        ("NaN", "NaN"),
        (10**400, 10**400),
    ],
    ids=repr,
)
def test_plain_values(value: Any, expected: Any) -> None:
    assert strictly(to_json(value)) == expected
