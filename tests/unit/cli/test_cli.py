"""The command line, run in-process but where the process is what is tested."""

from __future__ import annotations

import json
import math
import re
import shutil
import struct
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from logging import ERROR, INFO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from huggingface_hub.utils import logging as hub_logging
from transformers import Qwen2Config
from transformers.utils import logging

from adatp import AdaTP, Session, cli
from adatp.evaluation import Results, runner
from adatp.flops import DecoderShape
from adatp.methods import METHODS, Vanilla
from adatp.models import supported
from adatp.session import loading
from adatp.tiny import CHECKPOINT, CLIP, QUESTION, load, world
from adatp.video import read_video
from clips import write_clip, write_sound
from families import FAMILIES, Qwen25VL, Qwen35, VideoLlama3
from running import Run
from terminals import terminal_for_stderr

QUICK = ("--max-new-tokens", "3")


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Clips, good and bad, and models, good and bad."""
    folder = tmp_path_factory.mktemp("made")
    plain = write_clip(folder / "plain.mp4")
    plain_mkv = write_clip(folder / "plain.mkv")
    write_clip(folder / "one.mp4", 1)
    write_clip(folder / "sound.mp4", audio=True)
    write_clip(folder / "uneven.mkv", 24, pts=[n * n // 4 + n for n in range(24)])
    write_clip(folder / "uncounted.mkv", muxing={"live": "1"})
    write_clip(folder / "odd.mkv", size=(65, 49), pix_fmt="yuv444p")
    data = plain.read_bytes()
    upright = struct.pack(">9i", 1 << 16, 0, 0, 0, 1 << 16, 0, 0, 0, 1 << 30)
    turned = struct.pack(">9i", 0, 1 << 16, 0, -1 << 16, 0, 0, 0, 0, 1 << 30)
    (folder / "rotated.mp4").write_bytes(data.replace(upright, turned))

    (folder / "empty.mp4").touch()
    (folder / "garbage.mp4").write_bytes(np.random.default_rng(0).bytes(20_000))
    (folder / "cut.mp4").write_bytes(data[: len(data) * 6 // 10])
    (folder / "cut.mkv").write_bytes(plain_mkv.read_bytes()[: plain_mkv.stat().st_size // 2])
    write_sound(folder / "sound.m4a")

    Qwen2Config().save_pretrained(folder / "text-model")
    (folder / "empty-folder").mkdir()
    for name in ("no-weights", "cut-weights", "few-weights"):
        shutil.copytree(CHECKPOINT, folder / name)
    (folder / "no-weights" / "model.safetensors").unlink()
    weights = (CHECKPOINT / "model.safetensors").read_bytes()
    (folder / "cut-weights" / "model.safetensors").write_bytes(weights[: len(weights) // 2])
    few = {name: tensor for name, tensor in _weights().items() if "layers.3.mlp" not in name}
    _save(few, folder / "few-weights" / "model.safetensors")
    return folder


def _weights() -> dict[str, torch.Tensor]:
    from safetensors.torch import load_file

    return load_file(CHECKPOINT / "model.safetensors")


def _save(tensors: dict[str, torch.Tensor], path: Path) -> None:
    from safetensors.torch import save_file

    save_file(tensors, path, {"format": "pt"})


# What it answers and reports.


def test_no_arguments_runs_the_embedded_model_on_the_shipped_clip(run: Run, tmp_path: Path) -> None:
    code, out, err = run("ask", "--json", tmp_path / "out.json", *QUICK)
    assert (code, err) == (0, "")
    got = json.loads((tmp_path / "out.json").read_text())
    assert list(tmp_path.iterdir()) == [tmp_path / "out.json"]

    model, processor = load()
    clip = read_video(CLIP, 32)
    prompt = processor.apply_chat_template(
        [{"role": "user", "content": [{"type": "video"}, {"type": "text", "text": QUESTION}]}],
        add_generation_prompt=True,
    )
    inputs = processor(text=prompt, videos=clip.frames)
    with AdaTP()(model, processor, question=QUESTION) as pruned:
        ids = model.generate(**inputs, max_new_tokens=3)
    words = processor.decode(ids[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
    expected = pruned.report.to_dict()

    assert got["answer"] == words.strip()
    assert (got["question"], got["frames"]) == (QUESTION, len(clip.frames))
    for key in ("method", "settings", "relevance", "flops_ratio", "flops", "kept", "visual_tokens"):
        assert got["report"][key] == expected[key], key
    assert 0.26 < got["report"]["flops_ratio"] <= 0.273
    assert got["report"]["relevance"] == "siglip"
    assert not {"vanilla", "same_answer"} & set(got)

    assert QUESTION in out
    assert words.strip().split()[0] in out
    first, last = got["report"]["prompt_visual_tokens"][0], got["report"]["visual_tokens"][-1][0]
    flops = got["report"]["flops"]
    for figure in (f"{first} → {last}", "siglip", "fastvid", f"{got['report']['flops_ratio']:.1%}"):
        assert figure in out
    assert f"{flops['request'] / flops['request_vanilla']:.1%}" in out
    for stage in ("decode of the video", "vision", "relevance", "prefill", "decode, per token"):
        assert re.search(rf"Time: {stage}.* \d+(\.\d)? ms", out), stage


def test_compare_runs_vanilla_beside_it(run: Run, tmp_path: Path) -> None:
    code, out, err = run("ask", "--compare", "--json", tmp_path / "out.json", *QUICK)
    assert (code, err) == (0, "")
    got = json.loads((tmp_path / "out.json").read_text())
    vanilla, pruned = got["vanilla"]["report"], got["report"]
    assert vanilla["method"] == "vanilla"
    assert vanilla["flops_ratio"] == 1
    assert vanilla["flops"]["decoder"] == pruned["flops"]["decoder_vanilla"]
    assert len(set(map(tuple, vanilla["visual_tokens"]))) == 1
    assert got["same_answer"] == (got["vanilla"]["answer"] == got["answer"])
    assert ("agree" in out) == got["same_answer"]
    assert ("differ" in out) != got["same_answer"]
    ratio = pruned["flops"]["request"] / vanilla["flops"]["request"]
    assert f"{ratio:.1%}" in out
    assert re.search(r"Time: prefill( +\d+(\.\d)? ms){2} +\d+\.\d%", out)
    assert "warm-up" in out


def test_vanilla_is_the_model_as_it_is() -> None:
    model, processor = load()
    session = Session.of(model, processor)
    prompt = session.prepare(CLIP, QUESTION, frames=4)
    got = session.answer(prompt, Vanilla(), max_new_tokens=4)
    ids = model.generate(**prompt.inputs, max_new_tokens=4)
    plain = processor.decode(ids[0, prompt.inputs["input_ids"].shape[1] :], skip_special_tokens=True)
    assert got.text == plain.strip()
    assert got.report.flops_ratio == 1
    assert got.report.flops.relevance == 0
    assert not list(Vanilla().scored_layers(DecoderShape(12, 64, 4, 4, 16, 128, 10)))
    assert {"vision", "prefill", "decode"} <= set(got.report.milliseconds)


@pytest.mark.parametrize(
    ("name", "frames", "read"),
    [
        ("one.mp4", 32, 1),
        ("plain.mp4", 100, 48),
        ("plain.mp4", 5, 5),
        ("sound.mp4", 5, 5),
        ("uneven.mkv", 7, 7),
        ("uncounted.mkv", 7, 7),
        ("odd.mkv", 4, 4),
        ("rotated.mp4", 4, 4),
    ],
)
def test_videos_of_all_kinds_work(
    run: Run, made: Path, tmp_path: Path, name: str, frames: int, read: int
) -> None:
    out_json = tmp_path / "out.json"
    code, out, err = run("ask", made / name, "what moves ?", "--frames", frames, "--json", out_json, *QUICK)
    assert code == 0
    assert "what moves ?" in out
    got = json.loads(out_json.read_text())
    assert got["frames"] == read == len(got["timestamps"])
    assert err == ""
    assert got["report"]["flops_ratio"] <= 0.273


@pytest.mark.parametrize("target", [(), ("--flops", 0.273)], ids=["default", "asked for"])
def test_a_target_out_of_reach_is_met_as_far_as_it_goes_and_that_is_said(
    run: Run, made: Path, tmp_path: Path, target: tuple[object, ...]
) -> None:
    """Its other tokens alone are above the target."""
    asked = (
        "ask",
        made / "one.mp4",
        "what moves " * 9 + "?",
        "--json",
        tmp_path / "out.json",
        *target,
        *QUICK,
    )
    code, _, err = run(*asked)
    assert code == 0
    assert re.fullmatch(
        r"adatp: warning: the prompt takes .* of vanilla FLOPs, the least that adatp can do.*\n", err
    )
    assert 0.273 < json.loads((tmp_path / "out.json").read_text())["report"]["flops_ratio"] <= 1
    code, out, err = run(*asked, "--strict")
    assert (code, out) == (2, "")
    assert re.fullmatch(r"adatp: 0.273 of vanilla FLOPs is out of reach.*\n", err)


def test_what_is_dropped_before_the_first_layer_is_shown(run: Run, tmp_path: Path) -> None:
    code, out, _ = run("ask", "--flops", 0.05, "--json", tmp_path / "out.json", *QUICK)
    assert code == 0
    report = json.loads((tmp_path / "out.json").read_text())["report"]
    [visual], [first], [last] = (
        report["prompt_visual_tokens"],
        report["visual_tokens"][0],
        report["visual_tokens"][-1],
    )
    assert visual > first > last
    assert f"{visual} → {last}" in out


@pytest.mark.parametrize("name", [name for name in METHODS if name not in ("adatp", "vanilla")])
def test_any_method_answers(run: Run, tmp_path: Path, name: str) -> None:
    code, out, err = run("ask", "--method", name, "--flops", 0.5, "--json", tmp_path / "out.json", *QUICK)
    assert (code, err) == (0, "")
    report = json.loads((tmp_path / "out.json").read_text())["report"]
    assert report["method"] == name
    assert report["flops_ratio"] <= 0.5
    assert name in out


def test_ten_thousand_frames(run: Run, tmp_path: Path) -> None:
    clip = write_clip(tmp_path / "long.mkv", 10_000, size=(32, 32), options={"preset": "ultrafast"})
    code, out, err = run("ask", clip, "what moves ?", *QUICK)
    assert (code, err) == (0, "")
    assert "32 frames of 416.7 s" in out


@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.name)
def test_models_of_the_hub(run: Run, made: Path, hub: Path, tmp_path: Path, family: Any) -> None:
    asked = ("ask", made / "plain.mp4", "what is the cat ?", "--model", hub / family.name)
    how = ("--frames", 7, "--flops", 0.8, "--compare", "--json", tmp_path / "out.json")
    code, out, err = run(*asked, *how, *QUICK)
    assert (code, err) == (0, "")
    got = json.loads((tmp_path / "out.json").read_text())
    report = got["report"]
    assert 0.7 < report["flops_ratio"] <= 0.8
    assert report["relevance"] == "embedding"
    # Some families pair frames: the odd one out is repeated, not lost.
    (visual,), complete = report["visual_tokens"][0], math.prod(family.grid(7, 48, 64))
    assert 0 < visual < complete if family.compresses else visual == complete
    assert report["visual_tokens"][-1][0] < visual
    assert "embedding" in out


def test_methods_for_complete_frames_are_refused_in_one_line(
    run: Run, made: Path, hub: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, out = hub / VideoLlama3.name, tmp_path / "out"
    asked = (made / "plain.mp4", "what is the cat ?", "--model", source, "--frames", 7, "--flops", 0.6)
    for command in (
        ("ask", *asked, "--method", "dycoke"),
        ("show", *asked, "--against", "dycoke", "--out", out),
    ):
        code, printed, err = run(*command, *QUICK)
        assert (code, printed) == (2, "")
        assert re.fullmatch(r"adatp: dycoke needs every token of a frame.*, or use one of adatp, .*\n", err)
    monkeypatch.setattr(runner, "view_of", lambda frames, view: np.repeat(frames[:1], len(frames), 0))
    options = ("--methods", "fastv,dycoke", "--frames", 4, "--limit", 1, "--flops", 0.8)
    code, printed, err = run("eval", "--model", source, *options)
    assert code == 0
    assert re.fullmatch(r"adatp: skipped: dycoke@0.8, 4 frames: dycoke needs every token .*\n", err)
    assert "fastv" in printed


def test_qwen_is_given_the_rate_of_the_sample(made: Path, hub: Path) -> None:
    session = Session(hub / Qwen25VL.name)
    for frames in (8, 7):
        clip = read_video(made / "plain.mp4", frames)
        inputs = session.prepare(clip, "what ?").inputs
        assert inputs["video_grid_thw"][0, 0] == 4
        assert inputs["second_per_grid_ts"].tolist() == pytest.approx(
            [2 * clip.timestamps[-1] / (frames - 1)]
        )


def test_words_in_brackets_are_not_markup(run: Run) -> None:
    code, out, _ = run("ask", CLIP, "what [bold]colour[/] is [/it] ?", *QUICK)
    assert code == 0
    assert "what [bold]colour[/] is [/it] ?" in out


# Bad input: one line, exit code 2, nothing on stdout, nothing written.

BAD: dict[str, tuple[list[str], str]] = {
    "no video": (["", "what ?"], "the path of the video is empty"),
    "missing file": (["{made}/nothing.mp4", "what ?"], "no such file"),
    "empty file": (["{made}/empty.mp4", "what ?"], "the file is empty"),
    "garbage": (["{made}/garbage.mp4", "what ?"], "not a video"),
    "mp4 cut short": (["{made}/cut.mp4", "what ?"], "cut short"),
    "mkv cut short": (["{made}/cut.mkv", "what ?"], "cut short"),
    "audio only": (["{made}/sound.m4a", "what ?"], "no video stream"),
    "a folder as video": (["{made}", "what ?"], "a folder without frame images"),
    "no frames": (["--frames", "0"], "--frames"),
    "fewer than no frames": (["--frames", "-3"], "--frames"),
    "frames in words": (["--frames", "many"], "--frames"),
    "a text model": (
        ["--model", "{made}/text-model"],
        "'qwen2' is not supported; supported: ",
    ),
    "a missing model folder": (["--model", "{made}/nothing"], "no such model folder"),
    "a folder without a model": (["--model", "{made}/empty-folder"], "no model in this folder"),
    "a file as model": (["--model", "{made}/plain.mp4"], "plain.mp4: a file, not a model folder"),
    "a bare name as model": (["--model", "nothing"], "no such model folder"),
    "no name as model": (["--model", ""], "the model's name is empty"),
    "no weights": (["--model", "{made}/no-weights"], "weights can't be loaded"),
    "weights cut short": (["--model", "{made}/cut-weights"], "weights can't be loaded"),
    "too few weights": (["--model", "{made}/few-weights"], "lacks"),
    "unknown method": (["--method", "magic"], "there are adatp, vanilla"),
    "a target for vanilla": (["--method", "vanilla", "--flops", "0.5"], "no FLOPs target"),
    "FLOPs of 0": (["--flops", "0"], "(0, 1]"),
    "FLOPs above 1": (["--flops", "1.5"], "(0, 1]"),
    "FLOPs below 0": (["--flops", "-1"], "(0, 1]"),
    "FLOPs not a number": (["--flops", "nan"], "(0, 1]"),
    "FLOPs in words": (["--flops", "few"], "--flops"),
    "unreachable FLOPs": (["--strict", "--flops", "0.001"], "out of reach, the lowest is 0.01"),
    "no question": (["{made}/plain.mp4"], "question is missing"),
    "empty question": (["{made}/plain.mp4", ""], "question is empty"),
    "blank question": (["{made}/plain.mp4", " \t\n"], "question is empty"),
    "a placeholder in the question": (["{made}/plain.mp4", "what is <video> ?"], "stands for a video"),
    "too long a question": (["{made}/plain.mp4", "what " * 5000], "takes 4096: shorten the text"),
    "too long an answer": (
        ["{made}/plain.mp4", "what ?", "--max-new-tokens", "100000"],
        "takes 4096: ask for a shorter answer (max_new_tokens, or a request's max_tokens)",
    ),
    "JSON into no directory": (["--json", "{tmp}/nowhere/out.json"], "can't be written"),
    "JSON onto a directory": (["--json", "{tmp}"], "a folder, not a regular file"),
    "JSON without a name": (["--json", ""], "--json .: a folder, not a regular file"),
    "JSON onto a device": (["--json", "/dev/null"], "not a regular file"),
    "JSON where nothing can be written": (["--json", "/proc/adatp.json"], "can't be written"),
    "no new tokens": (["--max-new-tokens", "0"], "--max-new-tokens"),
    "unknown device": (["--device", "abacus"], "no device 'abacus'"),
    "unknown dtype": (["--dtype", "float1"], "--dtype"),
    "unknown option": (["--colour"], "--colour"),
    "too many arguments": (["a", "b", "c"], "unexpected extra argument"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_one_line(run: Run, made: Path, tmp_path: Path, case: str) -> None:
    arguments, expected = BAD[case]
    given = [argument.format(made=made, tmp=tmp_path) for argument in arguments]
    if "--json" not in given:
        given += ["--json", str(tmp_path / "out.json")]
    code, out, err = run("ask", *given)
    assert (code, out) == (2, "")
    assert err.startswith("adatp: ")
    assert err.endswith("\n")
    assert err.count("\n") == 1
    assert expected.lower() in err.lower()
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "case",
    [
        "missing file",
        "a placeholder in the question",
        "unreachable FLOPs",
        "too long a question",
        "JSON into no directory",
        "JSON where nothing can be written",
    ],
)
def test_no_weights_are_loaded_for_nothing(
    run: Run, made: Path, tmp_path: Path, monkeypatch: Any, case: str
) -> None:
    monkeypatch.setattr(loading, "load_model", lambda *_: pytest.fail("weights were loaded"))
    arguments, expected = BAD[case]
    code, _, err = run("ask", *(argument.format(made=made, tmp=tmp_path) for argument in arguments))
    assert code == 2
    assert expected in err


def test_a_hub_model_needs_torchvision_and_says_so(run: Run, made: Path, hub: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr(loading, "find_spec", lambda name: None)
    code, out, err = run("ask", made / "plain.mp4", "what ?", "--model", hub / "llava_onevision")
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert 'pip install "adatp[hub]"' in err


def test_a_hub_that_is_out_of_reach_is_one_line(run: Run, monkeypatch: Any) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    code, out, err = run("ask", "--model", "nobody/nothing")
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert "nor can it be had from the hub" in err


def test_a_write_that_fails_leaves_the_old_file(run: Run, tmp_path: Path, monkeypatch: Any) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    (tmp_path / "out.json").write_text("old")
    monkeypatch.setattr(Path, "replace", full)
    code, out, err = run("ask", "--json", tmp_path / "out.json", *QUICK)
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert "No space left" in err
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [("out.json", "old")]


def test_json_follows_a_link_and_keeps_it(run: Run, tmp_path: Path) -> None:
    (tmp_path / "link.json").symlink_to(tmp_path / "target.json")
    assert run("ask", "--json", tmp_path / "link.json", *QUICK)[0] == 0
    assert (tmp_path / "link.json").is_symlink()
    assert json.loads((tmp_path / "target.json").read_text())["question"] == QUESTION


def test_an_interrupt_is_quiet(run: Run, tmp_path: Path, monkeypatch: Any) -> None:
    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Session, "answer", interrupted)
    assert run("ask", "--json", tmp_path / "out.json") == (130, "", "")
    assert not list(tmp_path.iterdir())


def test_an_interrupt_amid_imports_is_quiet() -> None:
    program = (
        "import signal, sys; from adatp.cli import main\n"
        "class Finder:\n"
        "    def find_spec(self, name, *_):\n"
        "        try: name == 'torch' and signal.raise_signal(signal.SIGINT)\n"
        "        except KeyboardInterrupt: pass\n"  # as destructors and some imports do
        "sys.meta_path.insert(0, Finder()); sys.exit(main(['ask']))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "")


def test_a_bug_keeps_its_traceback(run: Run, monkeypatch: Any) -> None:
    def bug(*_: object, **__: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(Session, "answer", bug)
    with pytest.raises(ZeroDivisionError):
        run("ask")


# The table of budgets.


def rows(out: str) -> dict[str, list[str]]:
    cells = [line.split() for line in out.splitlines()]
    return {line[0]: line[1:] for line in cells if line and (line[0] == "vanilla" or line[0].endswith("%"))}


@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.name)
def test_flops_needs_a_config_only(run: Run, tmp_path: Path, family: Any) -> None:
    family.config().save_pretrained(tmp_path)
    code, out, err = run(
        "flops", "--model", tmp_path, "--frames", 9, "--size", "64x32", "--flops", "0.9,0.6,0.01"
    )
    assert (code, err) == (0, "")
    visual = math.prod(family.grid(9, 32, 64))
    assert f"{visual} visual and 30 other tokens" in out
    table = rows(out)
    assert list(table) == ["vanilla", "90.0%", "60.0%", "1.0%"]
    depth = len(family.layers)
    assert table["vanilla"][-1] == f"{visual}×{depth}"
    for target in ("90.0%", "60.0%"):
        reached = float(table[target][0].rstrip("%"))
        assert 0.95 * float(target[:-1]) <= reached <= float(target[:-1])
        assert table[target][-1] != f"{visual}×{depth}"
    assert table["1.0%"][:4] == ["no", "the", "lowest", "is"]


def test_flops_counts_macs_by_the_formula_of_a_paper(run: Run, tmp_path: Path) -> None:
    """Those that the papers print: Qwen2-7B at 6272 tokens."""
    config: Any = FAMILIES[0].config()
    sizes = {"hidden_size": 3584, "num_hidden_layers": 28, "num_attention_heads": 28, "vocab_size": 152064}
    config.text_config.update({**sizes, "num_key_value_heads": 4, "intermediate_size": 18944})
    config.text_config.layer_types = None
    config.save_pretrained(tmp_path)
    published = {"fastv": "40.77", "dycoke": "41.42", "pyramiddrop": "52.69", "fastvid": "48.82"}
    for preset, macs in published.items():
        code, out, _ = run("flops", "--model", tmp_path, "--frames", 6272 // 4, "--preset", preset)
        assert code == 0
        assert f"MACs ({preset})" in out
        assert f"the formula of the {preset} preset" in " ".join(out.split())
        assert rows(out)["vanilla"][3:5] == [macs, "T"]


def test_a_preset_that_is_none_or_does_not_know_the_model_is_refused(run: Run, tmp_path: Path) -> None:
    code, _, err = run("flops", "--preset", "fastvlm")
    assert code == 2
    assert err == "adatp: --preset is one of fastv, dycoke, pyramiddrop, fastvid, not 'fastvlm'\n"
    Qwen35.config().save_pretrained(tmp_path)
    code, _, err = run("flops", "--model", tmp_path, "--preset", "fastv")
    assert (code, err) == (2, "adatp: --preset fastv knows no linear attention: leave it out\n")


def test_models_lists_what_the_suite_has_observed(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "140")
    code, out, err = run("models")
    assert (code, err) == (0, "")
    lines = [line.strip() for line in out.splitlines()]
    noted = {line.split()[0]: line for line in lines if line.split() and line.split()[0] in supported()}
    assert [*noted] == [*supported()]
    for name, checkpoint in supported().items():
        assert str(checkpoint) in noted[name]
    assert noted["qwen2_5_vl"].endswith("Qwen/Qwen2.5-VL-7B-Instruct")
    [number] = re.findall(r"assisted \[(\d)\]", noted["qwen3_5"])
    assert f"[{number}] {Qwen35.lacks()['assisted']}." in lines
    assert "transformers 5." in lines[-1]


def test_flops_agrees_with_what_a_run_reports(run: Run, tmp_path: Path) -> None:
    run("ask", "--json", tmp_path / "out.json", *QUICK)
    report = json.loads((tmp_path / "out.json").read_text())["report"]
    visual, tokens = report["prompt_visual_tokens"][0], report["prompt_tokens"][0]
    code, out, _ = run("flops", "--frames", 16, "--text-tokens", tokens - visual, "--flops", "0.273")
    assert code == 0
    assert rows(out)["vanilla"][-1] == f"{visual}×12"
    # The table takes all text for the question: that many more rows are scored.
    assert float(rows(out)["27.3%"][0].rstrip("%")) == pytest.approx(100 * report["flops_ratio"], abs=0.1)
    assert float(rows(out)["27.3%"][1]) == pytest.approx(report["flops"]["decoder"] / 1e9, rel=0.01)


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--flops", "0.5,lots"], "separated by commas"),
        (["--flops", "0.5,0"], "(0, 1]"),
        (["--size", "big"], "WIDTHxHEIGHT"),
        (["--model", "./nothing/at/all"], "no such model folder"),
        (["--frames", "0"], "--frames"),
    ],
)
def test_bad_input_to_flops_is_one_line(run: Run, arguments: list[str], expected: str) -> None:
    code, out, err = run("flops", *arguments)
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert err.startswith("adatp: ")
    assert expected in err


# The command itself.


@pytest.mark.parametrize("arguments", [[], ["--help"], ["ask", "--help"], ["flops", "--help"]])
def test_help(run: Run, arguments: list[str]) -> None:
    code, out, err = run(*arguments)
    assert (code, err) == (0, "")
    assert "Usage: adatp" in out


def test_version(run: Run) -> None:
    code, out, err = run("--version")
    assert (code, err) == (0, "")
    assert re.fullmatch(r"adatp \d+\.\d+\.\d+\S*\n", out)


def test_an_unknown_command_is_one_line(run: Run) -> None:
    code, out, err = run("asks")
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert "asks" in err


def test_help_imports_neither_torch_nor_transformers() -> None:
    program = "import sys; from adatp.cli import main; main(['--help']); print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True)
    modules = done.stdout.splitlines()[-1].split()  # the lines before it, the help, may name transformers
    assert "adatp.cli" in modules
    assert not {"torch", "transformers", "numpy", "av"} & set(modules)


def test_the_installed_command_keeps_stderr_clean() -> None:
    command = [Path(sys.executable).with_name("adatp"), "ask", *QUICK]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stderr) == (0, "")
    assert QUESTION in done.stdout
    assert "\x1b" not in done.stdout


def test_progress_on_a_terminal(run: Run, monkeypatch: Any) -> None:
    terminal = terminal_for_stderr(monkeypatch)
    code, out, _ = run("ask", "--compare", *QUICK)
    assert code == 0
    for doing in (
        "reading the video",
        "loading",
        *(f"{how}: {name}" for how in ("warming up", "answering") for name in ("adatp", "vanilla")),
    ):
        assert doing in terminal.getvalue()
        assert doing not in out


@pytest.fixture
def talkative_libraries() -> Iterator[None]:
    """Their logs turned up, for one test."""
    levels = logging.get_verbosity(), hub_logging.get_verbosity()
    logging.set_verbosity_info()
    hub_logging.set_verbosity_info()
    yield
    logging.set_verbosity(levels[0])
    hub_logging.set_verbosity(levels[1])


@pytest.mark.usefixtures("talkative_libraries")
def test_libraries_are_quiet_while_it_runs_and_as_before_afterwards(run: Run, monkeypatch: Any) -> None:
    def settings() -> tuple[Any, ...]:
        return logging.get_verbosity(), hub_logging.get_verbosity(), logging.is_progress_bar_enabled()

    observed = []
    load_model = loading.load_model
    monkeypatch.setattr(
        loading, "load_model", lambda *args: (observed.append(settings()), load_model(*args))[1]
    )
    assert run("ask", "--frames", 2, *QUICK)[0] == 0
    assert run("ask", "nothing.mp4", "what ?")[0] == 2
    assert observed == [(ERROR, ERROR, False)]
    assert settings() == (INFO, INFO, True)


# Evaluation.

EVAL = ("eval", "--frames", "4", "--limit", "2", "--methods", "adatp,blind", "--flops", "0.5")


def test_eval_writes_rows_table_and_figures(run: Run, tmp_path: Path) -> None:
    threads = torch.get_num_threads()
    out_file, plot = tmp_path / "out.json", tmp_path / "out.png"
    code, out, err = run(*EVAL, "--split", "validation", "--threads", 1, "--json", out_file, "--plot", plot)
    assert (code, err) == (0, "")
    got = json.loads(out_file.read_text())
    assert [row["method"] for row in got["rows"]] == ["vanilla", "adatp", "blind"]
    assert got["skipped"] == []
    assert (got["command"], got["split"], got["limit"]) == ("eval", "validation", 2)
    vanilla, adatp, _ = got["rows"]
    assert (vanilla["flops_ratio"], vanilla["n"], vanilla["frames"]) == (1, 2, 4)
    assert 0.4 < adatp["flops_ratio"] <= 0.5
    for words in ("validation split, 4 frames", "adatp 50%", f"{adatp['flops_ratio']:.1%}", "blind"):
        assert words in out
    assert {path.name for path in tmp_path.iterdir()} == {
        "out.json",
        "out.work.jsonl",
        "out.png",
        "out-thirds.png",
    }
    assert plot.read_bytes()[:4] == (tmp_path / "out-thirds.png").read_bytes()[:4] == b"\x89PNG"
    assert torch.get_num_threads() == threads

    work = (tmp_path / "out.work.jsonl").read_bytes()
    out_file.unlink()
    again = run(*EVAL, "--split", "validation", "--json", out_file)
    assert again == (0, out, "")
    assert json.loads(out_file.read_text()) == got
    assert (tmp_path / "out.work.jsonl").read_bytes() == work


def test_eval_leaves_no_file_without_json(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    code, out, err = run(*EVAL)
    assert (code, err) == (0, "")
    assert "vanilla" in out
    assert list(tmp_path.iterdir()) == []


def test_eval_skips_what_is_out_of_reach(run: Run, tmp_path: Path) -> None:
    arguments = ("--methods", "adatp", "--flops", "0.5,0.0001", "--json", tmp_path / "out.json")
    code, _, err = run(*EVAL[:5], *arguments)
    assert code == 0
    assert re.fullmatch(r"adatp: skipped: adatp@0.0001, 4 frames: .*lowest.*\n", err)
    got = json.loads((tmp_path / "out.json").read_text())
    assert [row["flops_target"] for row in got["rows"]] == [None, 0.5]
    assert [skip["flops_target"] for skip in got["skipped"]] == [0.0001]


def test_ablate_compares_with_the_full_method(run: Run, tmp_path: Path) -> None:
    out_file = tmp_path / "out.json"
    plot = tmp_path / "out.svg"
    code, out, _ = run(
        "ablate", "--frames", 4, "--limit", 2, "--flops", 0.5, "--json", out_file, "--plot", plot
    )
    assert code == 0
    rows = json.loads(out_file.read_text())["rows"]
    assert rows[0]["variant"] == "full"
    assert rows[0]["delta"] is None
    assert {"no global debias", "no local debias", "neither", "adaptive"} < {row["variant"] for row in rows}
    assert all(row["delta"] is not None for row in rows[1:])
    assert "no local debias" in out
    assert b"no local debias" in plot.read_bytes() or b"<svg" in plot.read_bytes()


def methods_of(number: int) -> list[str]:
    """AdaTP and three others."""
    others = [name for name in METHODS if name not in ("vanilla", "adatp")]
    return ["adatp", *(others[(3 * number + place) % len(others)] for place in range(3))]


@pytest.mark.parametrize(
    ("family", "names"), [(family, methods_of(number)) for number, family in enumerate(FAMILIES)]
)
def test_eval_of_any_family(run: Run, hub: Path, family: Any, names: list[str], tmp_path: Path) -> None:
    """Models that know nothing of the world are asked all the same, and answer as they do alone.

    Methods go round, so that each is asked of several families. All pairs show nothing more: evaluation knows
    no family, and what methods ask of one is a feature of the conformance suite.
    """
    source = hub / family.name
    options = ("--frames", 4, "--limit", 1, "--flops", 0.8, "--json", tmp_path / "out.json")
    options = (*options, "--methods", ",".join(["vanilla", *names]))
    code, _, err = run("eval", "--model", source, *options)
    assert (code, err.replace("adatp: skipped", "").count("adatp:")) == (0, 0)
    lines = [json.loads(line) for line in (tmp_path / "out.work.jsonl").read_text().splitlines()]
    answers = {line["run"]: line for line in lines if "run" in line}
    [asked] = [line for line in lines if "question" in line]
    session = Session(source)
    prompt = session.prepare(world.make_clip(asked["seed"], 4, "test").frames, asked["text"])
    for name in ["vanilla", *names]:
        if name == "vanilla" or f"{name}@0.8" in answers:
            kind = METHODS[name]
            got = answers[name if name == "vanilla" else f"{name}@0.8"]
            method: Any = kind() if name == "vanilla" else kind(flops=0.8)  # type: ignore[call-arg]
            alone = session.answer(prompt, method, max_new_tokens=8)
            assert got["word"] == next(iter(re.findall(r"\w+", alone.text.lower())), ""), name
            assert got["flops_ratio"] == alone.report.flops_ratio
    assert {"vanilla", "adatp@0.8"} < answers.keys()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--methods", "adatp,nothing"), "no method 'nothing'; there are"),
        (("--methods", ""), "no method ''"),
        (("--split", "exam"), "exam"),
        (("--frames", "2"), "2"),
        (("--frames", "x"), "--frames is numbers"),
        (("--frames", ""), "--frames is numbers"),
        (("--frames", "400"), "fewer frames"),
        (("--flops", "0.5,2"), "in (0, 1], not 2"),
        (("--flops", "nan"), "in (0, 1]"),
        (("--flops", "half"), "--flops is numbers"),
        (("--limit", "0"), "--limit"),
        (("--threads", "0"), "--threads"),
        (("--dtype", "int8"), "--dtype is one of"),
        (("--device", "abacus"), "abacus"),
        (("--model", "{made}/text-model"), "not supported"),
        (("--model", "{made}/nothing"), "no such model folder"),
        (("--model", "{made}/cut-weights"), "can't be loaded"),
        (("--json", "{made}/nowhere/out.json"), "--json"),
        (("--json", "{made}"), "not a regular file"),
        (("--plot", "{made}/nowhere/out.png"), "--plot"),
        (("--plot", "{made}/out.doc"), ".png, .pdf, .svg"),
    ],
)
def test_eval_refuses_in_one_line(
    run: Run, made: Path, arguments: tuple[str, ...], words: str, tmp_path: Path
) -> None:
    out_file = () if "--json" in arguments else ("--json", tmp_path / "out.json")
    code, out, err = run(*EVAL, *out_file, *(argument.format(made=made) for argument in arguments))
    assert (code, out) == (2, "")
    assert words in err
    assert err.startswith("adatp: ")
    assert err.count("\n") == 1
    assert not (tmp_path / "out.json").exists()


def test_eval_without_matplotlib(run: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(cli.files, "find_spec", lambda name: None)
    code, out, err = run(*EVAL, "--plot", tmp_path / "out.png")
    assert (code, out) == (2, "")
    assert 'pip install "adatp[plot]"' in err


def test_eval_refuses_results_of_another_run_and_damaged_ones(run: Run, tmp_path: Path) -> None:
    out_file, work = tmp_path / "out.json", tmp_path / "out.work.jsonl"
    assert run(*EVAL, "--json", out_file)[0] == 0
    before = out_file.read_bytes(), work.read_bytes()
    for command in (
        (*EVAL, "--limit", 1),
        (*EVAL, "--split", "validation"),
        ("ablate", *EVAL[1:5]),
    ):
        code, out, err = run(*command, "--json", out_file)
        assert (code, out) == (2, "")
        assert "another run" in err
        assert err.count("\n") == 1
        assert (out_file.read_bytes(), work.read_bytes()) == before
    middle = len(before[1]) // 2
    work.write_bytes(before[1][:middle] + b"\xff\n" + before[1][middle:])
    damaged = work.read_bytes()
    code, out, err = run(*EVAL, "--json", out_file)
    assert (code, out) == (2, "")
    assert re.search(r"line \d+ is damaged", err)
    assert (out_file.read_bytes(), work.read_bytes()) == (before[0], damaged)


def test_an_interrupted_eval_says_how_to_go_on(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out_file = tmp_path / "out.json"
    add, left = Results.add_answer, iter(range(4))

    def interrupt(*arguments: Any, **facts: Any) -> None:
        add(*arguments, **facts)
        if next(left, None) is None:
            raise KeyboardInterrupt

    monkeypatch.setattr(Results, "add_answer", interrupt)
    code, out, err = run(*EVAL, "--json", out_file)
    assert (code, out) == (130, "")
    assert err == "adatp: interrupted; run it again to go on\n"
    assert not out_file.exists()
    left = iter(range(0))
    code, _, err = run(*EVAL)
    assert code == 130
    assert "--json" in err
    monkeypatch.undo()
    assert run(*EVAL, "--json", out_file)[0] == 0
    asked = [json.loads(line) for line in (tmp_path / "out.work.jsonl").read_text().splitlines()]
    asked = [(line["run"], line["number"]) for line in asked if "run" in line]
    assert sorted(asked) == sorted({*asked})
    assert len(asked) == 6
