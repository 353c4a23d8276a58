"""What the process meets: full disks, Ctrl-C, odd encodings, a torchvision that does not fit."""

from __future__ import annotations

import os
import resource
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from adatp import bias
from hostile import Run, snapshot

QUICK = ("--frames", "4", "--max-new-tokens", "1")
BIAS = ("bias", "--frames", "4", "--limit", "1")
EVAL = ("eval", "--frames", "4", "--limit", "1", "--methods", "vanilla,adatp", "--flops", "0.5")
MAIN = "import sys; from adatp.cli import main; sys.exit(main(sys.argv[1:]))"


@contextmanager
def room(size: int) -> Iterator[None]:
    """Files may grow to so many bytes: to a process it is as if the disk were full."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.parametrize(
    ("command", "size"),
    [
        (("ask", *QUICK, "--json", "{tmp}/out.json"), 700),
        (("show", *QUICK, "--out", "{tmp}/out"), 20_000),
        (("show", *QUICK, "--out", "{tmp}/made"), 20_000),
        ((*BIAS, "--json", "{tmp}/out.json"), 700),
        ((*BIAS, "--plot", "{tmp}/out"), 20_000),
        ((*BIAS, "--plot", "{tmp}/made"), 20_000),
        ((*EVAL, "--plot", "{tmp}/out.png"), 5_000),
    ],
)
def test_a_full_disk_leaves_all_as_it_was(
    run: Run, tmp_path: Path, command: tuple[str, ...], size: int
) -> None:
    (tmp_path / "made").mkdir()
    (tmp_path / "made" / "show.png").write_text("old")
    before = snapshot(tmp_path)
    with room(size):
        code, out, err = run(*(argument.format(tmp=tmp_path) for argument in command))
    assert (code, out, err.count("\n")) == (2, "", 1), err
    assert "can't be written (File too large)" in err
    assert snapshot(tmp_path) == before


def test_a_disk_that_fills_up_amid_an_evaluation(run: Run, tmp_path: Path) -> None:
    with room(800):
        code, out, err = run(*EVAL, "--json", tmp_path / "out.json")
    assert (code, out, err.count("\n")) == (2, "", 1), err
    assert "out.work.jsonl: can't be written (File too large); run it again to go on" in err
    code, _, err = run(*EVAL, "--json", tmp_path / "out.json")
    assert (code, err) == (0, "")


@pytest.mark.parametrize("command", [("ask", *QUICK), ("--help",), ("--version",)])
def test_standard_output_that_is_full(command: tuple[str, ...]) -> None:
    """Commands write through one console, and `main` reports what comes of it: one stands for all."""
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            [sys.executable, "-c", MAIN, *command], stdout=full, stderr=subprocess.PIPE, text=True
        )
    expected = "adatp: the output can't be written (No space left on device)\n"
    assert (done.returncode, done.stderr) == (2, expected)


def test_standard_output_that_is_full_ends_the_servers() -> None:
    """Nobody learns their address."""
    for command in ("demo", "serve"):
        with Path("/dev/full").open("w") as full:
            done = subprocess.run(
                [sys.executable, "-c", MAIN, command, "--port", "0"],
                stdout=full,
                stderr=subprocess.PIPE,
                text=True,
                timeout=600,
            )
        expected = "adatp: the output can't be written (No space left on device)\n"
        assert (done.returncode, done.stderr) == (2, expected)


def test_standard_output_without_unicode_gets_plain_characters() -> None:
    done = subprocess.run(
        [sys.executable, "-c", MAIN, "ask", *QUICK],
        capture_output=True,
        env=os.environ | {"PYTHONIOENCODING": "cp1252"},
    )
    assert (done.returncode, done.stderr) == (0, b"")
    assert b"Visual tokens, prompt -> last layer" in done.stdout
    assert done.stdout.isascii()


def test_ctrl_c_that_a_library_swallows_ends_the_command(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    measure = bias.measure

    def swallowing(*args: Any, **kwargs: Any) -> Any:
        with suppress(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
        return measure(*args, **kwargs)

    monkeypatch.setattr(bias, "measure", swallowing)
    code, out, _ = run(*BIAS)
    assert (code, out) == (130, "")
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    monkeypatch.undo()
    assert run(*BIAS)[0] == 0


@pytest.fixture
def broken_torchvision(tmp_path: Path) -> dict[str, str]:
    """An environment whose torchvision raises as it is imported, and transformers with it."""
    (tmp_path / "torchvision").mkdir()
    (tmp_path / "torchvision" / "__init__.py").write_text(
        "raise RuntimeError('operator torchvision::nms does not exist')"
    )
    facts = tmp_path / "torchvision-0.1.dist-info"
    facts.mkdir()
    (facts / "METADATA").write_text("Metadata-Version: 2.1\nName: torchvision\nVersion: 0.1\n")
    path = os.pathsep.join([str(tmp_path), *filter(None, sys.path)])
    return os.environ | {"PYTHONPATH": path}


def test_a_torchvision_that_does_not_fit_is_as_none(broken_torchvision: dict[str, str]) -> None:
    guard = "import atexit; atexit.register(lambda: print(sys.modules['adatp.torchvision_guard'].BROKEN))"
    done = subprocess.run(
        [sys.executable, "-c", MAIN.replace(";", f"; {guard};", 1), "ask", *QUICK],
        capture_output=True,
        text=True,
        env=broken_torchvision,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.endswith("\noperator torchvision::nms does not exist\n")


@pytest.mark.parametrize("first", ["models", "evaluation"])
def test_whatever_is_imported_first_a_torchvision_that_does_not_fit_is_as_none(
    first: str, broken_torchvision: dict[str, str]
) -> None:
    program = f"import adatp.{first}; from transformers import AutoProcessor; print('fine')"
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, env=broken_torchvision
    )
    assert (done.stdout, done.stderr) == ("fine\n", "")


def test_an_answer_is_no_command_to_the_terminal(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("adatp.session.answer.words_of", lambda *_: "red\x1b[31m\x07 \u202eball")
    code, out, _ = run("ask", *QUICK)
    assert code == 0
    assert "\x1b" not in out
    assert "red\\x1b[31m\\x07 \\u202eball" in out


def test_a_reason_below_a_heading_is_not_cut_off() -> None:
    from adatp.errors import first_line

    assert first_line(ValueError("Errors in loading:\n\tsize mismatch\nmore")) == (
        "Errors in loading: size mismatch"
    )
    assert first_line(ValueError("One line.\nMore")) == "One line."
    assert first_line(ValueError()) == "ValueError"
    assert len(first_line(ValueError("x" * 5000))) == 300
