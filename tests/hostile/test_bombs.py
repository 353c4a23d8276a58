"""Checkpoints made to take all memory, refused in a process that has little."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from clips import flat_clip, write_long
from damage import Damage, damaged, setting, written

LIMIT = 4 << 30
"""Bytes of address space; torch and transformers alone take about 2 GB."""

PEAK = """
def peak():
    # KiB. Not ru_maxrss: a process takes over the one that the process which started it has.
    return int(open("/proc/self/status").read().split("VmHWM:")[1].split()[0])
"""

PROGRAM = """
import contextlib, io, json, resource, sys
resource.setrlimit(resource.RLIMIT_AS, (int(sys.argv[1]), int(sys.argv[1])))
import torch
torch.set_num_threads(1)
from adatp.cli import main
for model in sys.argv[2:]:
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            code = main(["ask", "--frames", "4", "--max-new-tokens", "1", "--model", model])
        except BaseException as error:
            code = repr(error)[:300]
    print(json.dumps([code, out.getvalue(), err.getvalue()]), flush=True)
print(json.dumps(peak()))
"""


def sparse(path: Path) -> None:
    """A file of 3 GB that takes no room on the disk."""
    path.unlink()
    with path.open("wb") as file:
        file.truncate(3 << 30)


def doubling(times: int) -> dict[str, Any]:
    one = {"type": "Replace", "pattern": {"String": "a"}, "content": "aa"}
    return {"type": "Sequence", "normalizers": [one] * times}


def header_of(shape: list[int]) -> bytes:
    header = json.dumps({"a": {"dtype": "F32", "shape": shape, "data_offsets": [0, 4]}}).encode()
    return len(header).to_bytes(8, "little") + header + bytes(4)


BOMBS: dict[str, tuple[str, Damage, str]] = {
    "no text config": ("config.json", setting("text_config", None), "text_config is a config"),
    "default text config": ("config.json", setting("text_config", {}), "lacks most of them"),
    "layers": ("config.json", setting("text_config.num_hidden_layers", 10**9), "num_hidden_layers is"),
    "many layers": ("config.json", setting("text_config.num_hidden_layers", 1000), "config"),
    "width": ("config.json", setting("text_config.intermediate_size", 1 << 20), "lacks most of them"),
    "words": ("config.json", setting("text_config.vocab_size", 1 << 24), "lacks most of them"),
    "images": ("config.json", setting("vision_config.image_size", 1 << 14), "4194304 tokens or more"),
    "tokenizer: size": ("tokenizer.json", sparse, "has 3072 MB"),
    "tokenizer: padding": (
        "tokenizer.json",
        setting("padding", {"strategy": {"Fixed": 10**9}, "direction": "Left", "pad_id": 0}),
        "pads every text",
    ),
    "tokenizer: normalizer": ("tokenizer.json", setting("normalizer", doubling(32)), "times longer"),
    "chat template: size": ("chat_template.jinja", lambda path: (path.touch(), sparse(path))[1], "3072 MB"),
    "weights: header": ("model.safetensors", written(header_of([1 << 40])), "can't be loaded"),
    "beams": ("generation_config.json", setting("num_beams", 10**6), "num_beams is a whole number"),
    "text encoder": (
        "relevance/config.json",
        setting("text_config.max_position_embeddings", 10**9),
        "lacks most of them",
    ),
}


def test_bombs_are_refused_in_little_memory(world: Path, tmp_path: Path) -> None:
    folders = [
        damaged(world / "model", tmp_path / str(number), name, damage)
        for number, (name, damage, _) in enumerate(BOMBS.values())
    ]
    command = [sys.executable, "-c", PEAK + PROGRAM, str(LIMIT), *map(str, folders)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600)
    *found, used = [json.loads(line) for line in done.stdout.splitlines()]
    assert (done.returncode, done.stderr) == (0, "")
    for (name, (_, _, words)), (code, out, err) in zip(BOMBS.items(), found, strict=True):
        assert (name, code, out, err.count("\n")) == (name, 2, "", 1), err
        assert words in err, (name, err)
    assert used < 3 << 19  # KiB, of which torch and transformers alone take half


MEASURED = """
import sys
from adatp.cli import main
code = main(sys.argv[1:])
print("peak", code, peak())
"""


@pytest.mark.slow
def test_a_clip_of_4k_takes_little_memory(tmp_path: Path) -> None:
    """64 frames are 1.6 GB as they are stored, and four times that as float32."""
    assert peak_of_ask(flat_clip(tmp_path / "4k.mp4", 64, (3840, 2160)), 64) < 3 << 19


@pytest.mark.slow
def test_a_clip_of_half_a_million_frames_takes_little_memory(tmp_path: Path) -> None:
    """They would be 1.5 GB if all were decoded and held, beside the half that a process has anyhow."""
    assert peak_of_ask(write_long(tmp_path / "long.mp4", 500_000), 32) < 1 << 20


def peak_of_ask(clip: Path, frames: int) -> int:
    """KiB that `adatp ask` about so many frames of a clip holds at most, in a process of its own."""
    asked = [
        sys.executable,
        "-c",
        PEAK + MEASURED,
        "ask",
        str(clip),
        "what colour is the star ?",
        "--frames",
        str(frames),
    ]
    done = subprocess.run(asked, capture_output=True, text=True, timeout=3600)
    assert done.stderr == ""
    code, peak = done.stdout.split("peak")[1].split()
    assert code == "0"
    return int(peak)


def test_memory_of_the_cpu_that_runs_out_is_one_line(
    run: Any, monkeypatch: pytest.MonkeyPatch, world: Path
) -> None:
    """As torch says it, while the weights are loaded and while the model runs."""
    from transformers import AutoModelForImageTextToText as Model

    from adatp import Session

    def full(*_: object, **__: object) -> None:
        raise RuntimeError(
            "[enforce fail at alloc_cpu.cpp:117] err == 0. DefaultCPUAllocator: can't allocate memory: you "
            "tried to allocate 8000000000000 bytes. Error code 12 (Cannot allocate memory)"
        )

    for where, name in ((Session, "answer"), (Model, "from_pretrained")):
        monkeypatch.setattr(where, name, full)
        code, out, err = run("ask", "--frames", "4", "--model", world / "model")
        assert (code, out) == (2, "")
        assert err == "adatp: out of memory: ask for fewer --frames, or use a smaller model\n"
        monkeypatch.undo()
