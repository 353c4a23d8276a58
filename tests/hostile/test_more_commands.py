"""More command lines from strangers: settings, plans, keys, rows, checkpoints to convert, hosts."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from damage import BROKEN, Damage
from hostile import Call, Run, Setup, check

QUICK = ("--frames", "4", "--max-new-tokens", "1")
LONG = "n" * 5000
DEEP = '{"a":' * 100_000
NO_FILE = {
    "a FIFO": ("{tmp}/fifo", "not a regular file"),
    "a device": ("/dev/zero", "not a regular file"),
    "a link to a device": ("{tmp}/zero", "not a regular file"),
    "a folder": ("{tmp}/folder", "not a regular file"),
    "a loop": ("{tmp}/loop", "Too many levels of symbolic links"),
    "a link to nowhere": ("{tmp}/lost", "No such file"),
    "a long name": (LONG, "File name too long"),
    "a large file": ("{tmp}/large", "17 MB are too many"),
}
"""What is no small file -> its name, and why."""


def odd_files(tmp: Path, _: Path) -> None:
    os.mkfifo(tmp / "fifo")
    (tmp / "zero").symlink_to("/dev/zero")
    (tmp / "folder").mkdir()
    (tmp / "loop").symlink_to(tmp / "loop")
    (tmp / "lost").symlink_to(tmp / "nowhere")
    with (tmp / "large").open("wb") as file:
        file.truncate(17 << 20)


def holding(content: str | bytes, name: str = "file") -> Setup:
    """The case has one file."""

    def setup(tmp: Path, _: Path) -> None:
        (tmp / name).write_bytes(content.encode() if isinstance(content, str) else content)

    return setup


def call_id(call: Call) -> str:
    return ascii(" ".join(call.arguments).replace("{tmp}/", "").replace("{world}/", "")[-60:])


# Settings of eval, plans of paper: small files that the user names.

EVAL = ("eval", "--frames", "4", "--limit", "1", "--methods", "vanilla")
SETTINGS = [
    *(Call((*EVAL, "--settings", name), why, odd_files) for name, why in NO_FILE.values()),
    *(
        Call((*EVAL, "--settings", "{tmp}/file"), why, holding(content))
        for content, why in (
            ("", "no JSON"),
            ("[" * 100_000, "no JSON"),
            (DEEP, "no JSON"),
            (b"\xff\xfe\x00\x01{}", "no JSON"),
            ('{"framefusion": {"similarity": ' + "9" * 5000 + "}}", "no JSON"),
            ("[]", "settings are an object"),
            ('{"tuned": null}', "settings are an object"),
            ('{"framefusion": {"similarity": NaN}}', "similarity is a cosine"),
            ('{"\\u001b[31m": {}}', "\\x1b[31m"),
        )
    ),
    Call(
        (*EVAL, "--settings", "{tmp}/file", "--json", "{tmp}/file"),
        "the file of --settings, which would be lost",
        holding('{"framefusion": {"similarity": 0.4}}'),
    ),
]
PAPER = ("paper", "--dry-run", "--out", "{tmp}/out")
PLANS = [
    *(Call((*PAPER, name), why, odd_files) for name, why in NO_FILE.values()),
    *(
        Call((*PAPER, "{tmp}/file"), why, holding(content))
        for content, why in (
            (bytes(range(256)), "no text"),
            ("a = " + "[" * 100_000, "no TOML"),
            ("frames = " + "9" * 5000, "no TOML"),
            ("a = \x1b[31m", "no TOML"),
            ("", "models is a list"),
        )
    ),
    *(
        Call((*PAPER, "--shard", shard), why)
        for shard, why in (
            *((shard, "--shard is i/n") for shard in ("1/0", "-1/2", "٣/٣", "", "1/" + "9" * 5000)),
            *((shard, "shards are counted from 1") for shard in ("0/1", "2/1")),
        )
    ),
    Call(("paper", "--gather-only", "--out", LONG), "File name too long"),
    Call(("paper", "--gather-only", "--out", "{tmp}/loop"), "Too many levels", odd_files),
    Call(("paper", "--gather-only", "--out", "{tmp}/fifo"), "runs are missing", odd_files),
]


@pytest.mark.parametrize("call", [*SETTINGS, *PLANS], ids=call_id)
def test_small_files_that_are_none(run: Run, tmp_path: Path, world: Path, call: Call) -> None:
    check(run, call, tmp_path, world)


# What a server is started with.

SERVE = ("serve", "--port", "0")
SERVERS = [
    *(
        Call((command, "--port", "0", "--host", host), "no such address")
        for command in ("serve", "demo")
        for host in (f"{'a' * 70}.test", "..", ".test", "\udcff", "\x1b[31m", "999.1.1.1", "a." * 2000)
    ),
    *(Call((command, "--host", "192.0.2.1"), "can't be listened on") for command in ("serve", "demo")),
    Call((*SERVE, "--api-key-file", "{tmp}/fifo"), "no key in it", odd_files),
    Call((*SERVE, "--api-key-file", "/dev/zero"), "no key in it"),
    Call((*SERVE, "--api-key-file", "{tmp}/folder"), "Is a directory", odd_files),
    Call((*SERVE, "--api-key-file", "{tmp}/loop"), "Too many levels", odd_files),
    Call((*SERVE, "--api-key-file", LONG), "File name too long"),
    Call((*SERVE, "--api-key-file", "{tmp}/file"), "printable ASCII", holding(bytes(range(256)))),
    Call((*SERVE, "--allowed-local-media-path", "{tmp}/loop"), "no such folder", odd_files),
    Call((*SERVE, "--allowed-local-media-path", "{tmp}/fifo"), "no such folder", odd_files),
    Call((*SERVE, "--allowed-local-media-path", LONG), "no such folder"),
    *(Call((*SERVE, option, "nan"), option) for option in ("--batch-wait", "--media-seconds")),
]


@pytest.mark.enable_socket
@pytest.mark.parametrize("call", SERVERS, ids=call_id)
def test_servers_that_can_not_start(
    run: Run, tmp_path: Path, world: Path, monkeypatch: pytest.MonkeyPatch, call: Call
) -> None:
    monkeypatch.setattr("adatp.serve.keys.PIPE_SECONDS", 0.1)
    check(run, call, tmp_path, world)


# Rows of run.


def with_rows(more: Any = None) -> Setup:
    """The case has rows, and something else."""

    def setup(tmp: Path, world: Path) -> None:
        row = {"video": str(world / "clip.mp4"), "question": "what colour is the star ?"}
        (tmp / "rows.jsonl").write_text(json.dumps(row) + "\n")
        if more is not None:
            (tmp / "out").mkdir()
            more(tmp / "out")

    return setup


def writing(name: str, content: str | bytes) -> Any:
    return lambda folder: (folder / name).write_bytes(
        content.encode() if isinstance(content, str) else content
    )


RUN = ("run", "{tmp}/rows.jsonl", "--out", "{tmp}/out", "--workers", "0", *QUICK)
ROWS = [
    *(
        Call(("run", name, "--out", "{tmp}/out", *QUICK), why, odd_files)
        for name, why in (
            ("{tmp}/fifo", "not a regular file"),
            ("/dev/zero", "not a regular file"),
            ("{tmp}/folder", "not a regular file"),
            ("{tmp}/loop", "can't be read"),
            ("{tmp}/large", "longer than 16 MB"),
            (LONG, "File name too long"),
        )
    ),
    *(
        Call(("run", f"{{tmp}}/{name}", "--out", "{tmp}/out", *QUICK), why, holding(content, name))
        for name, content, why in (
            ("a.jsonl", '{"video": "a"}'.encode("utf-16"), "not UTF-8"),
            ("a.jsonl", "[" * 100_000, "not JSON"),
            ("a.jsonl", DEEP, "not JSON"),
            ("a.jsonl", '{"video": "a", "question": "?", "frames": ' + "9" * 5000 + "}", "line 1"),
            ("a.jsonl", "\n \n\n", "no rows"),
            ("a.jsonl", "", "no rows"),
        )
    ),
    *(
        Call((*RUN, "--shard", shard), "--shard", with_rows())
        for shard in ("a", "0/0", "0/1", "2/1", "-1/3", "٣/٤", "", "1/" + "9" * 5000)
    ),
    Call(("run", "{tmp}/rows.jsonl", "--out", LONG, *QUICK), "File name too long", with_rows()),
    Call(("run", "{tmp}/rows.jsonl", "--out", "{tmp}/rows.jsonl", *QUICK), "not a folder", with_rows()),
    Call((*RUN, "--json", "{tmp}/rows.jsonl"), "which would be lost", with_rows()),
    *(
        Call(RUN, "damaged or not of a run", with_rows(more))
        for more in (
            lambda out: os.mkfifo(out / "run.json"),
            lambda out: (out / "run.json").mkdir(),
            lambda out: (out / "run.json").symlink_to("/dev/zero"),
            lambda out: (out / "run.json").symlink_to("run.json"),
            writing("run.json", "[" * 100_000),
            writing("run.json", b"\xff\xfe"),
            writing("run.json", "7"),
        )
    ),
    Call(RUN, "which is of no run", with_rows(writing("part-00000.work.jsonl", "[" * 100_000))),
]


@pytest.mark.parametrize("call", ROWS, ids=call_id)
def test_rows_and_folders_that_are_none(run: Run, tmp_path: Path, world: Path, call: Call) -> None:
    check(run, call, tmp_path, world)


# Checkpoints that are converted.

CONVERT = ("convert", "llava-video", "{tmp}/official", "{tmp}/new")
CONFIG = {"model_type": "llava_qwen", "vocab_size": 1000, "hidden_size": 64}


def official(damage: Damage | None = None, **config: Any) -> Setup:
    """A folder that looks like an official checkpoint at first, damaged."""

    def setup(tmp: Path, world: Path) -> None:
        folder = tmp / "official"
        folder.mkdir()
        (folder / "config.json").write_text(json.dumps({**CONFIG, **config}))
        for name in ("tokenizer.json", "tokenizer_config.json"):
            (folder / name).write_bytes((world / "model" / name).read_bytes())
        save_file({"model.vision_tower.vision_tower.a": torch.zeros(1)}, folder / "model.safetensors")
        if damage is not None:
            damage(folder)

    return setup


def of(name: str, how: str) -> Damage:
    return lambda folder: BROKEN[how](folder / name)


CONVERTED = [
    *(
        Call(CONVERT, "/official: ", official(of(name, how)))
        for name in ("config.json", "tokenizer.json", "model.safetensors")
        for how in BROKEN
    ),
    *(
        Call(CONVERT, "/official: ", official(**config))
        for config in (
            {},
            {"vocab_size": None},
            {"vocab_size": "many"},
            {"vocab_size": 10**30},
            {"model_type": ["llava_qwen"]},
            {"mm_spatial_pool_stride": "x"},
            {"hidden_size": -1},
            {"num_hidden_layers": 10**9},
        )
    ),
    Call((*CONVERT, "--vision-tower", "{tmp}/none"), "/official: ", official()),
    Call(("convert", "llava-video", "{tmp}/none", "{tmp}/new"), "no such folder"),
    Call(("convert", "llava-video", LONG, "{tmp}/new"), "no such folder"),
    Call(("convert", "llava-video", "{tmp}/loop", "{tmp}/new"), "no such folder", odd_files),
    Call(("convert", "llava-video", "{tmp}/fifo", "{tmp}/new"), "no such folder", odd_files),
    Call(("convert", "\x1b[31m", "{tmp}/a", "{tmp}/new"), "what can be converted is llava-video"),
    *(
        Call(
            ("convert", "llava-video", "{tmp}/official", f"{{tmp}}/{name}"), "exists already", official(more)
        )
        for name, more in (
            ("official", None),
            ("official/config.json", None),
            ("lost", lambda folder: folder.with_name("lost").symlink_to("nowhere")),
            ("fifo", lambda folder: os.mkfifo(folder.with_name("fifo"))),
        )
    ),
]


@pytest.mark.parametrize("call", CONVERTED, ids=call_id)
def test_checkpoints_that_can_not_be_converted(run: Run, tmp_path: Path, world: Path, call: Call) -> None:
    check(run, call, tmp_path, world)


# Folders of frame images.


def frames(tmp: Path, _: Path) -> None:
    (tmp / "frames").mkdir()
    for number in range(3):
        Image.new("RGB", (64, 48), (60 * number, 0, 0)).save(tmp / "frames" / f"{number}.png")


def frames_and(more: Damage) -> Setup:
    return lambda tmp, world: (frames(tmp, world), more(tmp / "frames" / "9.png"))[0]


FRAMES = ("ask", "{tmp}/frames", "what moves ?", *QUICK)
FOLDERS = [
    *(
        Call(FRAMES, "/frames/9.png: not a regular file, or a link to none", frames_and(more))
        for more in (
            os.mkfifo,
            lambda path: path.symlink_to("/dev/zero"),
            lambda path: path.symlink_to(path),
            lambda path: path.symlink_to("nowhere"),
        )
    ),
    *(
        Call(FRAMES, "/frames/9.png: not an image, or damaged", frames_and(more))
        for more in (
            Path.touch,
            lambda path: path.write_bytes(b"\x89PNG\r\n\x1a\n" + b"x" * 100),
            lambda path: path.write_text("<svg/>"),
            lambda path: path.write_text("#EXTM3U\n/etc/passwd\n"),
        )
    ),
    Call((*FRAMES, "--json", "{tmp}/frames/1.png"), "an image of the video, which would be lost", frames),
    Call(("ask", "{tmp}", "what moves ?", *QUICK), "a folder without frame images", frames),
    Call(("ask", "{world}/clip.mp4", "what " * 25_000, *QUICK), "the model takes 4096"),
]


@pytest.mark.parametrize("call", FOLDERS, ids=call_id)
def test_folders_of_frames_that_are_broken(run: Run, tmp_path: Path, world: Path, call: Call) -> None:
    check(run, call, tmp_path, world)


# The rest: what a model is measured with, where it is looked for.


def existing(tmp: Path, _: Path) -> None:
    (tmp / "old.json").write_text("old")


REST = [
    Call(("ask", *QUICK, "--model", "/", "--json", "{tmp}/old.json"), "no model", existing),
    Call(("ask", *QUICK, "--model", ".", "--json", "{tmp}/old.json"), "a file of the model", existing),
    *(Call(("ask", *QUICK, "--model", name), "no model") for name in ("/dev", "/proc/self")),
    Call(("ask", *QUICK, "--model", "a/" * 5000), "no such model folder"),
    Call(("doctor", "--model", "{tmp}/fifo"), "no such model folder", odd_files),
    Call(("doctor", "--model", "{tmp}/folder"), "no model in this folder", odd_files),
    *(
        Call(("doctor", "--model", "tiny", "--size", size), "--size")
        for size in ("0x0", "\x1b", "9" * 500, "x")
    ),
    *(Call(("doctor", "--flops", flops), "--flops") for flops in ("nan", "inf", "0", "-1", "1e400")),
    Call(("doctor", "--model", "tiny", "--device", "meta"), "no device 'meta' here"),
    Call(("flops", "--preset", "\x1b[2J"), "--preset is one of"),
    *(
        Call(("show", *QUICK, "--out", "{tmp}/o", "--layers", layers), "--layers")
        for layers in ("", "1e3", "-1", "99", "0,,1")
    ),
    Call(("compare",), "compare"),
    *(
        Call(("ask", address, "what moves ?", *QUICK), words)
        for address, words in (
            ("http://", "not an address"),
            ("http://[::1", "not an address"),
            ("https://a:99999/", "not an address"),
            ("http://127.0.0.1:0/", "not an address"),
            ("http://a b/", "not an address"),
            ("http://" + "a" * 70 + "/", "not an address"),
            ("http://\udcff/", "not an address"),
            ("http://127.0.0.1/\udcff", "not an address"),
            ("http://" + "a" * 9000, "not an address"),
            ("http://user:word@127.0.0.1/a", "user or a password"),
            ("ftp://127.0.0.1/a", "no such file"),
            ("file:///etc/passwd", "no such file"),
            ("data:video/mp4;base64,AAAA", "no such file"),
            ("-", "no such file"),
            ("/dev/null", "not a regular file"),
            ("/proc/self/environ", "not a video"),
        )
    ),
]


@pytest.mark.parametrize("call", REST, ids=call_id)
def test_the_rest(
    run: Run,
    tmp_path: Path,
    tmp_path_factory: pytest.TempPathFactory,
    world: Path,
    monkeypatch: pytest.MonkeyPatch,
    call: Call,
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("adatp.video.sources.cache_folder", lambda: tmp_path_factory.mktemp("cache"))
    check(run, call, tmp_path, world)
