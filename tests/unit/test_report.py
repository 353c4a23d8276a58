"""Reports as JSON: valid whatever methods put into them."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from adatp import AdaTP
from adatp.plain_json import to_json
from adatp.relevance import PromptRelevance
from families import LlavaOnevision, batch, build
from running import Run
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


def test_files_of_the_command_line_are_json_whatever_relevance_is(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        PromptRelevance,
        "__call__",
        lambda relevance, sample: torch.full((relevance.layouts[sample].frames,), math.nan),
    )
    file = tmp_path / "out.json"
    code, _, err = run("ask", "--json", file, "--max-new-tokens", 2, "--frames", 8)
    assert (code, err) == (0, "")
    (notes,) = strictly(file.read_text())["report"]["samples"]
    assert notes["frame_relevance"] == ["NaN"] * 8


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
