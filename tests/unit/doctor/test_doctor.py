"""What is installed, and whether a model fits."""

from __future__ import annotations

import json
import re
from importlib.metadata import PackageNotFoundError
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import LlavaOnevisionConfig

from adatp import AdaTP, tiny
from adatp.cli import estimating
from adatp.doctor import (
    Device,
    device_named,
    devices,
    footprint,
    inspect_installation,
    installation,
    machine,
    matmul_rate,
    patches,
)
from adatp.doctor.footprint import cache_numbers
from adatp.flops import DecoderShape
from adatp.layout import PromptCounts
from adatp.methods import Vanilla
from adatp.session.loading import count_parameters, load_config, pick_dtype
from families import Prompt, Qwen25VL, batch, build
from running import Run

RESULTS = Path(__file__).parents[3] / "docs" / "results"

QWEN2_7B = {
    "model_type": "qwen2",
    "hidden_size": 3584,
    "intermediate_size": 18944,
    "num_hidden_layers": 28,
    "num_attention_heads": 28,
    "num_key_value_heads": 4,
    "vocab_size": 152_064,
}


@pytest.fixture(scope="module")
def onevision_7b(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Nothing but the config of LLaVA-OneVision-7B."""
    folder = tmp_path_factory.mktemp("7b")
    LlavaOnevisionConfig(text_config=QWEN2_7B, dtype="bfloat16").save_pretrained(folder)
    return folder


@pytest.mark.parametrize("method", [Vanilla(), AdaTP(flops=0.3, early="off")], ids=["vanilla", "pruned"])
def test_the_cache_is_as_large_as_estimated(method: Any) -> None:
    model, inputs = build(Qwen25VL), batch(Qwen25VL, [Prompt(before=2, seed=1)])
    with method(model) as run:
        out = model.generate(**inputs, max_new_tokens=5, do_sample=False, return_dict_in_generate=True)
    held = sum(layer.keys.numel() + layer.values.numel() for layer in out.past_key_values.layers)
    other = run.report.prompt_tokens[0] - run.report.prompt_visual_tokens[0]
    tokens = [counts[0] + other + 4 for counts in run.report.visual_tokens]
    assert cache_numbers(DecoderShape.from_config(model.config.get_text_config()), tokens) == held


def test_parameters_are_counted_without_weights() -> None:
    model, _ = tiny.load()
    config = load_config("tiny")
    assert count_parameters("tiny", config) == sum(weight.numel() for weight in model.parameters())
    assert pick_dtype(config, "auto") == model.dtype
    assert pick_dtype(config, "bfloat16") == torch.bfloat16


def test_memory_is_near_what_was_measured_on_a_gpu(onevision_7b: Path) -> None:
    """Of LLaVA-OneVision-7B, 32 frames, in bfloat16: docs/performance.md."""
    config = load_config(onevision_7b)
    grid = (32, 14, 14)
    shape, counts = DecoderShape.from_config(config.get_text_config()), PromptCounts(32 * 196, 30, 30)
    measured = json.loads((RESULTS / "gpu-flash.json").read_text())["rows"]
    rows: dict[float | None, Any] = {}
    for row in measured:
        if row["method"] in ("vanilla", "adatp") and (row["frames"], row["batch"]) == (32, 1):
            rows.setdefault(row["target"], row)
    for target in (None, 0.273, 0.1):
        schedule = AdaTP(flops=target or 1.0).schedule(shape, counts)
        found = footprint(config, 8_030_000_000, grid, schedule, 30, 1, 2)
        assert found.cache == pytest.approx(rows[target]["kv_cache"], rel=0.02)
        assert found.memory == pytest.approx(rows[target]["peak_memory"], rel=0.05)
        assert found.activations + found.cache == pytest.approx(rows[target]["peak_above_rest"], rel=0.15)
    assert patches(config, grid) == 32 * 27**2
    assert count_parameters("7b", config) == pytest.approx(8.03e9, rel=0.01)


def test_the_cpu_comes_first_and_memory_keeps_within_the_limit_of_a_container(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    assert devices()[0].name == "cpu"
    assert device_named("cpu").total == devices()[0].total
    (tmp_path / "limit").write_text(f"{2**20}\n")
    (tmp_path / "used").write_text(f"{2**18}\n")
    monkeypatch.setattr(machine, "_LIMITS", ("/nowhere", str(tmp_path / "limit")))
    monkeypatch.setattr(machine, "_USED", (str(tmp_path / "used"),))
    assert (devices()[0].free, devices()[0].total) == (2**20 - 2**18, 2**20)
    (tmp_path / "limit").write_text("max\n")
    assert (devices()[0].total or 0) > 2**20


def test_a_matrix_product_is_timed() -> None:
    assert 1e6 < matmul_rate("cpu", torch.float32, seconds=0.01) < 1e15


def test_what_is_missing_is_said_with_the_command_that_installs_it(monkeypatch: pytest.MonkeyPatch) -> None:
    def version(name: str) -> str:
        if name in ("pillow", "gradio"):
            raise PackageNotFoundError(name)
        return {"matplotlib": "3.0"}.get(name, "99")

    monkeypatch.setattr(
        installation,
        "requires",
        lambda _: [
            *(
                "torch>=2",
                "torchvision; extra == 'hub'",
                "pillow; extra == 'hub'",
                "gradio>=6; extra == 'demo'",
            ),
            *(
                "matplotlib>=3.8; extra == 'plot'",
                "decord; platform_machine == 'none' and extra == 'lmms-eval'",
            ),
        ],
    )
    monkeypatch.setattr(installation, "version", version)
    monkeypatch.setattr(installation, "BROKEN", None)
    monkeypatch.setattr(installation, "find_spec", lambda _: object())
    found = inspect_installation()
    assert found.extras["hub"] == ["pillow"]
    assert found.extras["plot"] == ["matplotlib"]  # too old
    assert found.extras["demo"] == ["gradio"]
    assert found.extras["lmms-eval"] == []  # not for this machine
    assert found.advice[0] == 'Models from the Hugging Face hub need pillow: pip install "adatp[hub]"'


def test_what_does_not_fit_together_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(installation, "BROKEN", "operator torchvision::nms does not exist")
    monkeypatch.setattr(installation, "DECODERS", ("h264", "no-such-codec"))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(installation.Path, "exists", lambda _: True)
    found = inspect_installation()
    assert found.decoders == {"h264": True, "no-such-codec": False}
    first, second, third = found.advice
    assert "does not fit torch" in first
    assert "nms does not exist" in first
    assert "NVIDIA GPU" in second
    assert "no-such-codec" in third
    assert "torchvision" in found.extras["hub"]


# The command.


def test_doctor_prints_what_is_here(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    code, out, err = run("doctor")
    assert (code, err) == (0, "")
    for word in (torch.__version__, "transformers", "PyAV", "cpu:", "sdpa", "h264", "Extras"):
        assert word in out
    assert "Estimated" not in out
    assert max(map(len, out.splitlines())) <= 80


@pytest.mark.parametrize(
    ("gib", "words"), [(64, "It fits: 64.00 GiB"), (18.8, "It fits only pruned"), (4, "It does not fit")]
)
def test_doctor_says_whether_a_model_fits(
    run: Run, monkeypatch: pytest.MonkeyPatch, onevision_7b: Path, gib: float, words: str
) -> None:
    size = int(gib * 2**30)
    monkeypatch.setattr("adatp.doctor.device_named", lambda name: Device(name, "", size, size))
    monkeypatch.setattr("adatp.doctor.matmul_rate", lambda *_: 1e12)
    code, out, err = run(*("doctor", "--model", onevision_7b, "--frames", 64, "--flops", 0.15))
    assert (code, err) == (0, "")
    assert words in out
    assert "8.03 B parameters, bfloat16" in out
    assert "adatp, 15.0%" in out


def rows(text: str, heading: str) -> list[list[str]]:
    """Rows of the table of estimates after a line with some words, without the machine's own."""
    _, _, found = text.partition(heading)
    cells = [re.split(r"  +", line.strip()) for line in found.partition("Time to")[0].splitlines()]
    return [row for row in cells if row[0].startswith(("Weights", "KV", "Activations", "Memory", "FLOPs"))]


@pytest.mark.parametrize(
    ("model", "arguments"), [("tiny", ()), ("7b", ("--frames", 64, "--flops", 0.15))], ids=["tiny", "7b"]
)
def test_the_page_shows_what_is_estimated(
    run: Run, monkeypatch: pytest.MonkeyPatch, onevision_7b: Path, model: str, arguments: tuple[object, ...]
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setattr("adatp.doctor.matmul_rate", lambda *_: 1e12)
    code, out, _ = run("doctor", "--model", onevision_7b if model == "7b" else model, *arguments)
    heading = "8.03 B parameters" if model == "7b" else "4.63 M parameters"
    assert code == 0
    page = (RESULTS.parent / "doctor.md").read_text().partition("How each number")[0]
    shown = rows(page, heading)
    assert len(shown) == 6
    assert shown == rows(out, heading)


def test_free_memory_that_is_not_known_is_said() -> None:
    found = estimating.Estimate("", {}, 1.0, Device("mps", "", None, None))
    assert "can't be known" in found.verdict()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--flops", "0"), "fractions of vanilla"),
        (("--model", "tiny", "--flops", "0.001"), "the lowest is"),
        (("--model", "tiny", "--size", "big"), "WIDTHxHEIGHT"),
        (("--model", "nowhere"), "no such model folder"),
        (("--model", "tiny", "--device", "abacus"), "no device 'abacus'"),
        (("--dtype", "int8"), "--dtype is one of"),
        (("--frames", "0"), "--frames"),
    ],
)
def test_bad_input_to_doctor_is_one_line(run: Run, arguments: tuple[str, ...], words: str) -> None:
    code, out, err = run("doctor", *arguments)
    assert (code, out) == (2, "")
    assert words in err
    assert err.count("\n") == 1
