"""The speed benchmarks, on a decoder so small that it takes seconds."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

import measure
import prefill
import scaling
import shapes
from adatp.methods import AdaTP, FastV

SMALL = shapes.decoder(64, 96, 4, 4, 2, 152000, True)
RATIOS = ("flops", "prefill", "overhead", "relevance", "decode", "peak_memory", "ttft", "vision", "kv_cache")
SIZES = {
    "llava-onevision-0.5b": 0.9,
    "llava-onevision-7b": 8.0,
    "qwen2.5-vl-3b": 3.75,
    "qwen2.5-vl-7b": 8.3,
    "qwen3-vl-4b": 4.4,
    "qwen3-vl-8b": 8.8,
}
"""Billions of parameters, as published."""


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(shapes.SHAPES, "llava-onevision-0.5b", (shapes.LlavaOnevision(), SMALL))


def case(**changed: Any) -> shapes.Case:
    settings = {"shape": "llava-onevision-0.5b", "layers": None, "frames": 2, "batch": 1, "dtype": "float32",
                "device": "cpu", "attention": "sdpa", "vision": False, "threads": None}  # fmt: skip
    return shapes.Case(**{**settings, **changed})


def test_rows_have_every_ratio_and_failures_say_why(
    small: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(measure, "get_context", lambda _: _Here())
    command = "prefill.py --frames 2 --batch 2 --dtype float32 --repeats 1 --flops 0.4,0.05"
    monkeypatch.setattr(sys, "argv", [*command.split(), "--json", str(tmp_path / "out.json")])
    prefill.main()
    rows = json.loads((tmp_path / "out.json").read_text())["rows"]
    noted = {prefill.label(row): row for row in rows}
    assert {"vanilla", "keep_all", "adatp 40%", "fastv 40%", "fastv_official 40%"} <= noted.keys()
    assert "out of reach" in noted["fastv 5%"]["failed"]
    for row in rows:
        assert row["model"] == "llava-onevision-0.5b"
        assert (row["device"], row["frames"], row["batch"]) == ("cpu", 2, 2)
        assert "failed" in row or {f"{name}_ratio" for name in RATIOS} <= row.keys()
    assert all(noted["vanilla"][f"{name}_ratio"] == 1 for name in {*RATIOS} - {"overhead", "relevance"})
    assert 0.39 < noted["adatp 40%"]["flops_ratio"] <= 0.4
    assert noted["adatp 40%"]["overhead"] > 0 == noted["keep_all"]["overhead"] == noted["vanilla"]["overhead"]
    assert noted["adatp 40%"]["kv_cache_ratio"] < 1 == noted["keep_all"]["kv_cache_ratio"]
    assert "efficiency" in capsys.readouterr().out
    figure = scaling.plot(rows + [{**row, "batch": 1} for row in rows], 2)
    assert len(figure.axes) == len(scaling.PANELS)


class _Here:
    """The pool of another process, in this one, where the decoder is small."""

    def Pool(self, _: int) -> _Here:  # noqa: N802
        return self

    def __enter__(self) -> _Here:
        return self

    def __exit__(self, *_: object) -> None: ...

    def apply(self, run: Any, arguments: Any) -> Any:
        return run(*arguments)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_fastv_by_eager_attention_keeps_what_fastv_by_our_scores_keeps(small: None, dtype: str) -> None:
    model, inputs = case(dtype=dtype).build()
    for name, parameter in model.named_parameters():
        if "language_model" in name and ("q_proj" in name or "k_proj" in name):
            parameter.mul_(20)
    kept = []
    for method in (FastV(flops=0.4), measure.FastVOfficial(flops=0.4)):
        _, report, _ = measure.request(model, inputs, method)
        assert report is not None
        kept.append({*report.kept[-1][0].tolist()})
        assert model.get_decoder().layers[0].self_attn.config is model.get_decoder().config
    # Rows of bfloat16 probabilities have few values: ties fall otherwise.
    assert len(kept[0] & kept[1]) >= (0.8 if dtype == "bfloat16" else 1) * len(kept[0])


@pytest.mark.parametrize("shape", [*shapes.SHAPES])
def test_every_shape_is_that_of_its_family(shape: str) -> None:
    with torch.device("meta"):
        family, text = shapes.SHAPES[shape]
        model = family.model_class(family.config(text, family.tower))
    billions = sum(parameter.numel() for parameter in model.parameters()) / 1e9
    assert billions == pytest.approx(SIZES[shape], abs=0.1)


@pytest.mark.parametrize("shape", ["llava-onevision-7b", "qwen2.5-vl-3b", "qwen3-vl-4b"])
def test_every_family_is_pruned(shape: str, monkeypatch: pytest.MonkeyPatch) -> None:
    family = shapes.SHAPES[shape][0]
    monkeypatch.setitem(shapes.SHAPES, shape, (family, shapes.decoder(256, 96, 4, 2, 2, 152000, True)))
    model, inputs = case(shape=shape).build()
    times, report, _ = measure.request(model, inputs, AdaTP(flops=0.5))
    assert report is not None
    assert sum(report.prompt_visual_tokens) == 392
    assert 0.49 < report.flops_ratio <= 0.5
    assert 0 < times["overhead"] < times["prefill"] < times["ttft"]


def test_processor_time_is_refused_where_it_says_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["prefill.py", "--cpu-time"])
    with pytest.raises(SystemExit, match="--threads 1"):
        prefill.main()
