"""Command lines from strangers: outputs never destroy inputs, outputs that can't be written, wild numbers."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from damage import linked
from hostile import Call, Run, check

ASK = ("ask", "{world}/clip.mp4", "what colour is the star ?", "--frames", "4", "--max-new-tokens", "1")
SHOW = ("show", *ASK[1:])
BIAS = ("bias", "--frames", "4", "--limit", "1")
EVAL = ("eval", "--frames", "4", "--limit", "1", "--methods", "vanilla")
ABLATE = ("ablate", "--frames", "4", "--limit", "1")
LOST = "would be lost"


def call_id(call: Call) -> str:
    return " ".join(call.arguments).replace("{tmp}/", "").replace("{world}/", "")[:60]


# Outputs that are inputs, under their own name, another one, a link, a hard link.


def own_clip(tmp: Path, world: Path) -> None:
    shutil.copy(world / "clip.mp4", tmp / "clip.mp4")
    (tmp / "link.json").symlink_to(tmp / "clip.mp4")
    os.link(tmp / "clip.mp4", tmp / "hard.json")
    (tmp / "out").mkdir()
    os.link(tmp / "clip.mp4", tmp / "out" / "show.svg")


def own_videos(tmp: Path, world: Path) -> None:
    shutil.copytree(world / "videos", tmp / "videos")
    (tmp / "questions.txt").write_text("what moves ?\n")
    os.link(tmp / "videos" / "b.mp4", tmp / "hard.json")
    os.link(tmp / "questions.txt", tmp / "questions.json")
    (tmp / "plots").mkdir()
    (tmp / "plots" / "bias-frames.svg").symlink_to(tmp / "videos" / "a.mp4")
    (tmp / "asked").mkdir()
    os.link(tmp / "questions.txt", tmp / "asked" / "bias-controls.png")


def own_model(tmp: Path, world: Path) -> None:
    linked(world / "model", tmp / "model")
    (tmp / "weights.json").symlink_to(tmp / "model" / "model.safetensors")
    os.link(tmp / "model" / "config.json", tmp / "run.work.jsonl")
    os.link(tmp / "model" / "config.json", tmp / "plot-thirds.png")
    (tmp / "out").mkdir()
    os.link(tmp / "model" / "tokenizer.json", tmp / "out" / "show.html")


OWN = ("{tmp}/clip.mp4", *ASK[2:])
VIDEOS = (*BIAS, "--videos", "{tmp}/videos")
MODEL = ("--model", "{tmp}/model")
INPUTS = [
    *(
        Call(("ask", *OWN, "--json", f"{{tmp}}/{name}"), f"the video, which {LOST}", own_clip)
        for name in ("clip.mp4", "link.json", "hard.json", "out/../clip.mp4", "./clip.mp4")
    ),
    Call(("show", *OWN, "--out", "{tmp}/out"), f"the video, which {LOST}", own_clip),
    *(
        Call((*VIDEOS, "--json", f"{{tmp}}/{name}"), f"a clip of --videos, which {LOST}", own_videos)
        for name in ("videos/a.mp4", "videos/b.mp4", "hard.json")
    ),
    Call((*VIDEOS, "--plot", "{tmp}/plots"), f"a clip of --videos, which {LOST}", own_videos),
    *(
        Call(
            (*VIDEOS, "--questions", "{tmp}/questions.txt", *output),
            f"the file of --questions, which {LOST}",
            own_videos,
        )
        for output in (
            ("--json", "{tmp}/questions.txt"),
            ("--json", "{tmp}/questions.json"),
            ("--plot", "{tmp}/asked"),
        )
    ),
    *(
        Call((*command, *MODEL, "--json", f"{{tmp}}/{name}"), f"a file of the model, which {LOST}", own_model)
        for command in (ASK, BIAS, EVAL, ABLATE)
        for name in (
            "model/config.json",
            "model/model.safetensors",
            "model/relevance/tokenizer.json",
            "weights.json",
        )
    ),
    *(
        Call((*command, *MODEL, "--json", "{tmp}/run.json"), f"a file of the model, which {LOST}", own_model)
        for command in (EVAL, ABLATE)
    ),
    *(
        Call((*command, *MODEL, "--plot", "{tmp}/plot.png"), f"a file of the model, which {LOST}", own_model)
        for command in (EVAL, ABLATE)
    ),
    Call((*SHOW, *MODEL, "--out", "{tmp}/out"), f"a file of the model, which {LOST}", own_model),
    *(
        Call((*command, "--json", "{tmp}/a.svg", "--plot", "{tmp}/a.svg"), "the same file as that of --json")
        for command in (EVAL, ABLATE)
    ),
    *(
        Call((*command, "--json", f"{{tmp}}/{name}", "--plot", "{tmp}/a.svg"), "the same file as that of")
        for command in (EVAL, ABLATE)
        for name in ("a-thirds.svg", "./a.svg")
    ),
]


@pytest.mark.parametrize("call", INPUTS, ids=call_id)
def test_an_output_is_never_an_input(run: Run, tmp_path: Path, world: Path, call: Call) -> None:
    check(run, call, tmp_path, world)


# Outputs that could not be written at the end.


def obstacles(tmp: Path, _: Path) -> None:
    (tmp / "folder.json").mkdir()
    os.mkfifo(tmp / "fifo.json")
    (tmp / "lost.json").symlink_to(tmp / "nowhere" / "a.json")
    (tmp / "loop.json").symlink_to(tmp / "loop.json")
    (tmp / "file").write_text("a file")
    for name, kind in (("folder", "d"), ("fifo", "p"), ("lost", "l"), ("loop", "o"), ("other", "t")):
        work = tmp / f"work-{name}.work.jsonl"
        if kind == "d":
            work.mkdir()
        elif kind == "p":
            os.mkfifo(work)
        elif kind == "l":
            work.symlink_to(tmp / "nowhere" / "a")
        elif kind == "o":
            work.symlink_to(work)
        else:
            work.write_text("no results\n")
        thirds = tmp / f"plot-{name}-thirds.png"
        if kind == "d":
            thirds.mkdir()
        elif kind == "p":
            os.mkfifo(thirds)
        elif kind == "l":
            thirds.symlink_to(tmp / "nowhere" / "a")
    for folder, name in (("shown", "show.svg"), ("drawn", "bias-frames.svg")):
        (tmp / folder / name).mkdir(parents=True)


LONG = "n" * 300
NO_FILE = [
    ("folder.json", "not a regular file"),
    ("fifo.json", "not a regular file"),
    ("lost.json", "can't be written"),
    ("loop.json", "can't be written"),
    ("file/a.json", "can't be written"),
    (f"{LONG}.json", "File name too long"),
    (f"{LONG}/a.json", "File name too long"),
    ("nowhere/a.json", "can't be written"),
    ("\x1b[31mred/a.json", "\\x1b[31mred/a.json: can't be written"),
    ("two\nlines/a.json", "can't be written"),
    ("turned\u202e/a.json", "turned\\u202e/a.json"),
]
NO_FOLDER = [
    ("file", "not a folder"),
    ("fifo.json", "not a folder"),
    ("file/a", "can't be written"),
    (LONG, "File name too long"),
    ("nowhere/a", "can't be written"),
    ("loop.json", "can't be written"),
]
OUTPUTS = [
    *(
        Call((*command, "--json", f"{{tmp}}/{name}"), words, obstacles)
        for command in (ASK, BIAS, EVAL, ABLATE)
        for name, words in NO_FILE
    ),
    *(Call((*SHOW, "--out", f"{{tmp}}/{name}"), words, obstacles) for name, words in NO_FOLDER),
    *(Call((*BIAS, "--plot", f"{{tmp}}/{name}"), words, obstacles) for name, words in NO_FOLDER),
    Call((*SHOW, "--out", "{tmp}/shown"), "show.svg in it is not a regular file", obstacles),
    Call((*BIAS, "--plot", "{tmp}/drawn"), "bias-frames.svg in it is not a regular file", obstacles),
    *(
        Call((*command, "--json", f"{{tmp}}/work-{name}.json"), words, obstacles)
        for command in (EVAL, ABLATE)
        for name, words in (
            ("folder", "not a regular file"),
            ("fifo", "not a regular file"),
            ("lost", "can't be written"),
            ("loop", "can't be written"),
            ("other", "not a result"),
        )
    ),
    *(
        Call((*command, "--plot", f"{{tmp}}/plot-{name}.png"), words, obstacles)
        for command in (EVAL, ABLATE)
        for name, words in (
            ("folder", "not a regular file"),
            ("fifo", "not a regular file"),
            ("lost", "can't be written"),
        )
    ),
    *(
        Call((*command, "--json", f"{{tmp}}/{'n' * 245}.json"), "File name too long")
        for command in (EVAL, ABLATE)
    ),
    *(
        Call((*command, "--plot", f"{{tmp}}/{'n' * 250}.png"), "File name too long")
        for command in (EVAL, ABLATE)
    ),
]


@pytest.mark.parametrize("call", OUTPUTS, ids=call_id)
def test_an_output_that_can_not_be_written(run: Run, tmp_path: Path, world: Path, call: Call) -> None:
    check(run, call, tmp_path, world)


@pytest.fixture
def nobody(tmp_path: Path) -> Iterator[Path]:
    """A folder in which a user without rights can write nothing; this process is that user meanwhile."""
    folder = tmp_path / "closed"
    folder.mkdir(mode=0o700)
    (folder / "old.json").write_text("old")
    for parent in (tmp_path, *tmp_path.parents[:3]):
        parent.chmod(parent.stat().st_mode | 0o055)
    if os.geteuid() != 0:
        folder.chmod(0)
        yield folder
        folder.chmod(0o700)
        return
    os.seteuid(65534)
    yield folder
    os.seteuid(0)


@pytest.mark.parametrize(
    ("command", "option"),
    [
        (("ask",), "--json"),
        (("bias",), "--json"),
        (("bias",), "--plot"),
        (("eval",), "--json"),
        (("eval",), "--plot"),
        (("ablate",), "--json"),
        (("show",), "--out"),
    ],
)
@pytest.mark.parametrize("name", ["old.json", "new.json", "new.png", ".", "deep/new.png"])
def test_a_folder_that_can_not_be_searched(
    run: Run, nobody: Path, command: tuple[str, ...], option: str, name: str
) -> None:
    code, out, err = run(*command, option, nobody / name)
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert err.startswith(f"adatp: {option} ")


# Wild numbers, devices, texts.

HUGE = "9" * 30
NUMBERS = [
    *(
        Call((*command, option, value), option)
        for command, option in (
            (("ask",), "--frames"),
            (("ask",), "--max-new-tokens"),
            (("show", "--out", "{tmp}/out"), "--frames"),
            (("show", "--out", "{tmp}/out"), "--layers"),
            (("flops",), "--frames"),
            (("flops",), "--text-tokens"),
            (("bias",), "--frames"),
            (("bias",), "--limit"),
            (("bias",), "--layers"),
            (("eval",), "--limit"),
            (("eval",), "--threads"),
            (("eval",), "--frames"),
            (("ablate",), "--limit"),
            (("ablate",), "--threads"),
            (("demo",), "--port"),
        )
        for value in (HUGE, f"-{HUGE}", "9" * 5000, "x\x1b[2J")
    ),
    *(Call((*command, "--threads", "1000000"), "--threads") for command in (("eval",), ("ablate",))),
    *(
        Call(("flops", "--size", size), "--size is WIDTHxHEIGHT")
        for size in ("0x0", f"{HUGE}x{HUGE}", "100000x100000", "-1x5", "5x", "x", "٣x٣٣٣٣٣٣", "1x1x1")
    ),
    *(
        Call((*command, "--flops", value), words)
        for command, words in (
            (("ask",), "(0, 1]"),
            (("flops",), "--flops"),
            (("eval",), "--flops"),
            (("ablate",), "--flops"),
        )
        for value in ("inf", "nan", "1e400", HUGE, "0", "-0.5")
    ),
    *(
        Call((*command, "--device", device), f"no device '{device}' here")
        for command in (("ask",), ("bias",), ("eval", "--methods", "vanilla"))
        for device in ("meta", "hpu", "privateuseone", "mps", "xla", "xpu", "cuda:99", "cpu:x", "", HUGE)
    ),
]


@pytest.mark.parametrize("call", NUMBERS, ids=call_id)
def test_wild_numbers_and_devices(run: Run, tmp_path: Path, world: Path, call: Call) -> None:
    err = check(run, call, tmp_path, world)
    if "--device" in call.arguments:
        assert len(err) < 320


def odd_inputs(tmp: Path, world: Path) -> None:
    os.mkfifo(tmp / "fifo")
    (tmp / "zero").symlink_to("/dev/zero")
    (tmp / "latin").write_bytes(b"caf\xe9 ?\n")
    (tmp / "blank").write_text(" \n\n")
    (tmp / "about").write_text("nothing.mp4\twhat ?\n")
    with (tmp / "big").open("wb") as file:
        file.truncate(17 << 20)
    (tmp / "empty").mkdir()
    (tmp / "loop").symlink_to(tmp / "loop")


ASKED = (*BIAS, "--videos", "{world}/videos", "--questions")
INPUT_FILES = [
    Call((*ASKED, "{tmp}/fifo"), "not a regular file", odd_inputs),
    Call((*ASKED, "{tmp}/zero"), "not a regular file", odd_inputs),
    Call((*ASKED, "/dev/zero"), "not a regular file"),
    Call((*ASKED, "/dev/stdin"), "--questions"),
    Call((*ASKED, "{tmp}/empty"), "not a regular file", odd_inputs),
    Call((*ASKED, "{tmp}/loop"), "can't be read", odd_inputs),
    Call((*ASKED, "{tmp}/big"), "17 MB are too many", odd_inputs),
    Call((*ASKED, "{tmp}/latin"), "not a text file", odd_inputs),
    Call((*ASKED, "{tmp}/blank"), "no question in it", odd_inputs),
    Call((*ASKED, "{tmp}/about"), "no 'nothing.mp4'", odd_inputs),
    Call((*ASKED, "{tmp}/missing"), "No such file"),
    Call((*ASKED, f"{{tmp}}/{LONG}"), "File name too long"),
    Call((*BIAS, "--videos", "{tmp}/empty"), "no file in it", odd_inputs),
    Call((*BIAS, "--videos", "{tmp}/loop"), "--videos", odd_inputs),
    Call((*BIAS, "--videos", f"{{tmp}}/{LONG}"), "File name too long"),
    *(
        Call((command, *extra, f"{{tmp}}/{name}", "what ?"), words, odd_inputs)
        for command, extra in (("ask", ()), ("show", ("--out", "{tmp}/out")))
        for name, words in (
            ("fifo", "not a regular file"),
            ("zero", "not a regular file"),
            ("loop", "loop"),
            ("empty", "a folder without frame images"),
            (LONG, "no such file"),
            ("a\x1b[31m\x07b\nc.mp4", "a\\x1b[31m\\x07b c.mp4: no such file"),
            ("a\u202eb.mp4", "a\\u202eb.mp4"),
            ("a\udcffb.mp4", "a\\xffb.mp4"),
        )
    ),
    *(
        Call((command, *extra, "{world}/clip.mp4", "what \udcff\udcfe ?"), "not UTF-8")
        for command, extra in (("ask", ()), ("show", ("--out", "{tmp}/out")))
    ),
    *(
        Call((command, *extra, "--model", model), words, odd_inputs)
        for command, extra in (("ask", ()), ("flops", ()), ("bias", ()), ("eval", ("--methods", "vanilla")))
        for model, words in (
            (LONG, "no such model folder"),
            (f"{{tmp}}/{LONG}", "no such model folder"),
            ("{tmp}/loop", "no such model folder"),
            ("{tmp}/fifo", "no such model folder"),
            ("{tmp}/\x1b[31mred", "\\x1b[31mred: no such model folder"),
            ("..", "no model in this folder"),
            ("\udcff", "\\xff: no such model folder"),
        )
    ),
    Call(("ask", "--method", "\x1b[31m"), "there are adatp"),
    Call(("ask", "--dtype", "\x07" * 5000), "--dtype is one of"),
    Call(("ask\x1b[31m",), "ask\\x1b[31m"),
    Call(("--\x1b[31m",), "\\x1b[31m"),
]


@pytest.mark.parametrize("call", INPUT_FILES, ids=lambda call: ascii(call_id(call)))
def test_inputs_that_are_none(
    run: Run, tmp_path: Path, world: Path, monkeypatch: pytest.MonkeyPatch, call: Call
) -> None:
    monkeypatch.chdir(tmp_path)
    check(run, call, tmp_path, world)


def test_the_calls_are_many() -> None:
    """At least 300, with those on checkpoints."""
    assert len(INPUTS) + len(OUTPUTS) + len(NUMBERS) + len(INPUT_FILES) >= 300
    assert "typer" in sys.modules
