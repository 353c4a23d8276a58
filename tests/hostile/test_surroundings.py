"""Odd surroundings of a process: closed streams, readers that leave, folders that vanish, odd variables."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from transformers.utils import logging

from adatp import Session
from adatp.cli.console import progress
from adatp.cli.terminal import say
from adatp.models.converted import llava_video_checkpoint
from hostile import Run, snapshot
from terminals import terminal_for_stderr

MAIN = "import sys; from adatp.cli import main; sys.exit(main(sys.argv[1:]))"
QUICK = ("--frames", "4", "--max-new-tokens", "1")
WRONG = ("ask", "--dtype", "x")
REFUSED = "adatp: --dtype is one of auto, float32, bfloat16, float16, not 'x'\n"


def started(
    code: str, *arguments: str, shell: str = "", **variables: str
) -> subprocess.CompletedProcess[str]:
    """Python started by a shell, which closes or redirects its streams."""
    command = shlex.join([sys.executable, "-c", code, *arguments])
    return subprocess.run(
        ["sh", "-c", f"exec {command} {shell}"], capture_output=True, text=True, env=os.environ | variables
    )


# Streams.


def test_a_closed_stderr_does_not_put_messages_into_the_output() -> None:
    done = started(MAIN, *WRONG, shell="2>&-")
    assert (done.returncode, done.stdout) == (2, "")


def test_other_closed_streams_change_nothing() -> None:
    done = started(MAIN, *WRONG, shell="<&- >&-")
    assert (done.returncode, done.stdout, done.stderr) == (2, "", REFUSED)
    done = started(MAIN, "--version", shell="<&- >&-")
    assert (done.returncode, done.stderr) == (0, "")


def test_no_file_gets_the_number_of_a_closed_stream(tmp_path: Path) -> None:
    """A message that a library in C prints would stand in it."""
    code = (
        "from adatp.cli.terminal import open_closed_streams\n"
        "open_closed_streams()\n"
        "import os, sys\n"
        "with open(sys.argv[1], 'w') as file:\n"
        "    os.write(1, b'printed'), os.write(2, b'said'), os.read(0, 1)\n"
        "    file.write(str(file.fileno() > 2))\n"
    )
    done = started(code, str(tmp_path / "file"), shell="<&- >&- 2>&-")
    assert (done.returncode, (tmp_path / "file").read_text()) == (0, "True")


@pytest.mark.parametrize("arguments", [("models",), ("--version",)])
def test_a_reader_that_leaves_ends_the_command_without_a_word(arguments: tuple[str, ...]) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    done = subprocess.run(
        [sys.executable, "-c", MAIN, *arguments], stdout=writing, stderr=subprocess.PIPE, text=True
    )
    os.close(writing)
    assert (done.returncode, done.stderr) == (1, "")


@pytest.mark.parametrize(
    ("shell", "name"), [("> {file}", "{file}"), ("> {file}", "/dev/stdout"), ("2> {file} >&2", "{file}")]
)
def test_the_file_that_the_output_goes_to_is_not_replaced(tmp_path: Path, shell: str, name: str) -> None:
    file = tmp_path / "out.txt"
    done = started(MAIN, "ask", "--json", name.format(file=file), shell=shell.format(file=file))
    assert done.returncode == 2
    assert "that is standard output, which would be lost" in done.stderr + file.read_text()


class Screen:
    """What a terminal of one screen shows: its lines, with the few sequences obeyed that rich sends."""

    def __init__(self) -> None:
        self.lines, self.row, self.column = [""], 0, 0

    def write(self, text: str) -> None:
        for part in re.findall(r"\x1b\[[?0-9;]*[a-zA-Z]|.", text, re.DOTALL):
            self._obey(part)

    def _obey(self, part: str) -> None:
        if part == "\n":
            self.row, self.column = self.row + 1, 0
            self.lines += [""] * (self.row + 1 - len(self.lines))
        elif part == "\r":
            self.column = 0
        elif part == "\x1b[2K":
            self.lines[self.row] = ""
        elif re.fullmatch(r"\x1b\[\d*A", part):
            self.row -= int(part[2:-1] or 1)
        elif len(part) == 1:
            line = self.lines[self.row].ljust(self.column)
            self.lines[self.row] = line[: self.column] + part + line[self.column + 1 :]
            self.column += 1


def test_a_message_amid_progress_stands_alone_on_its_line(monkeypatch: pytest.MonkeyPatch) -> None:
    """The line of progress is longer than the message, and is gone at the end."""

    terminal = terminal_for_stderr(monkeypatch)
    with progress("loading " + "a model with a long name " * 2):
        say("warning: short")
    screen = Screen()
    screen.write(terminal.getvalue())
    assert "a long name" in terminal.getvalue()
    assert [line.rstrip() for line in screen.lines if line.strip()] == ["adatp: warning: short"]


# Folders.


@pytest.mark.parametrize(
    "arguments",
    [
        ("ask", "clip.mp4", "what moves ?"),
        ("ask", "--json", "out.json"),
        ("run", "rows.jsonl", "--out", "out"),
        ("convert", "llava-video", "{tmp}/official", "new"),
        ("show", "--out", "out"),
        ("bias", "--videos", "videos"),
        ("eval", "--json", "out.json"),
    ],
)
def test_a_working_folder_that_is_gone(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: tuple[str, ...]
) -> None:
    (tmp_path / "official").mkdir()
    (tmp_path / "official" / "config.json").write_text('{"model_type": "llava_qwen"}')
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    code, out, err = run(*(argument.format(tmp=tmp_path) for argument in arguments))
    assert (code, out, err.count("\n")) == (2, "", 1), err
    assert {path.name for path in tmp_path.iterdir()} == {"official"}


def test_no_folder_for_temporary_files(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:  # pytest needs one afterwards
        patch.setattr("tempfile.tempdir", None)
        patch.setattr("tempfile._candidate_tempdir_list", lambda: [str(tmp_path / "none")])
        code, out, err = run("eval", "--frames", "4", "--limit", "1", "--methods", "vanilla")
    assert (code, out) == (2, "")
    assert err == "adatp: no folder for temporary files can be written: set TMPDIR to one\n"


Happens = Callable[[Path], Any]


@pytest.mark.parametrize(
    ("arguments", "before", "amid", "words"),
    [
        (
            ("ask", "--json", "{tmp}/a/out.json"),
            lambda tmp: (tmp / "a").mkdir(),
            lambda path: (path.rmdir(), path.touch()),
            "File exists",
        ),
        (("ask", "--json", "{tmp}/a"), lambda tmp: None, Path.mkdir, "Is a directory"),
        (("show", "--out", "{tmp}/a"), lambda tmp: None, Path.touch, "File exists"),
    ],
)
def test_an_output_that_changes_while_the_model_runs(
    run: Run,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    arguments: tuple[str, ...],
    before: Happens,
    amid: Happens,
    words: str,
) -> None:
    answer, done = Session.answer, []

    def changing(self: Session, *args: Any, **kwargs: Any) -> Any:
        if not done:
            done.append(amid(tmp_path / "a"))
        return answer(self, *args, **kwargs)

    before(tmp_path)
    monkeypatch.setattr(Session, "answer", changing)
    code, out, err = run(*(argument.format(tmp=tmp_path) for argument in arguments), *QUICK)
    assert (code, out, err.count("\n")) == (2, "", 1), err
    assert f"can't be written ({words}" in err
    assert not [path for path in tmp_path.rglob("*") if path.name.startswith(".")]


def test_a_conversion_on_a_full_disk_leaves_nothing(
    run: Run, tmp_path: Path, world: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "official").mkdir()
    before = snapshot(tmp_path)

    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device", str(tmp_path / "made" / "model.safetensors"))

    monkeypatch.setattr(llava_video_checkpoint, "_official_config", full)
    code, out, err = run("convert", "llava-video", tmp_path / "official", tmp_path / "new" / "folder")
    assert (code, out, err.count("\n")) == (2, "", 1), err
    assert "new/folder: can't be written (No space left on device)" in err
    assert snapshot(tmp_path) == before


def test_a_conversion_is_quiet(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Libraries warn of a model type that they do not know."""
    (tmp_path / "official").mkdir()
    heard = []

    def noting(*_: Any) -> None:
        heard.append(logging.get_verbosity())
        raise ValueError("no config")

    monkeypatch.setattr(llava_video_checkpoint, "_official_config", noting)
    assert run("convert", "llava-video", tmp_path / "official", tmp_path / "new")[0] == 2
    assert heard == [logging.ERROR]


def test_a_disk_that_fails_is_not_taken_for_a_full_one(run: Run) -> None:
    """Reading from address 0 of a process is an error of input."""
    code, out, err = run("ask", "/proc/self/mem", "what moves ?", *QUICK)
    assert (code, out) == (2, "")
    assert err == "adatp: /proc/self/mem: can't be read (Input/output error)\n"


def test_completion_that_can_not_be_installed(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (("HOME", "/proc/none"), ("SHELL", "/bin/bash")):
        monkeypatch.setenv(name, value)
    code, out, err = run("--install-completion")
    assert (code, out, err.count("\n")) == (2, "", 1), err
    assert "/proc/none" in err
    assert "can't be written" in err


# Variables.


@pytest.mark.parametrize("columns", ["0", "1", "19"])
def test_a_terminal_without_a_width_gets_tables_all_the_same(
    run: Run, monkeypatch: pytest.MonkeyPatch, columns: str
) -> None:
    monkeypatch.setenv("COLUMNS", columns)
    code, out, err = run("flops")
    assert (code, err) == (0, "")
    assert "vanilla" in out
    assert os.environ["COLUMNS"] == columns


@pytest.mark.parametrize(
    ("command", "value"),
    [
        (("show", "--out", "{tmp}/out"), "now"),
        (("bias", "--plot", "{tmp}/out"), "9" * 30),
        (("eval", "--plot", "{tmp}/out.svg"), "-1e9"),
    ],
)
def test_figures_without_a_date_are_refused_at_once(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: tuple[str, ...], value: str
) -> None:
    monkeypatch.setenv("SOURCE_DATE_EPOCH", value)
    code, out, err = run(*(argument.format(tmp=tmp_path) for argument in command))
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert "look at MPLBACKEND and SOURCE_DATE_EPOCH" in err
    assert not list(tmp_path.iterdir())


def test_a_backend_that_there_is_not_is_refused_at_once(tmp_path: Path) -> None:
    done = started(MAIN, "eval", "--plot", str(tmp_path / "out.png"), MPLBACKEND="none such")
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1), done.stderr
    assert "look at MPLBACKEND and SOURCE_DATE_EPOCH" in done.stderr


def test_what_matplotlib_says_of_odd_folders_and_settings_is_kept_off_the_terminal(tmp_path: Path) -> None:
    (tmp_path / "matplotlibrc").write_text("nonsense: 1\n")
    code = "from adatp.cli.files import check_drawing; check_drawing(); import matplotlib.font_manager"
    done = started(code, MPLCONFIGDIR="/proc/none", MATPLOTLIBRC=str(tmp_path))
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


@pytest.mark.parametrize(
    "variables",
    [
        {"COLUMNS": "0"},
        {"COLUMNS": "-5"},
        {"COLUMNS": "wide"},
        {"TERM": "nonsense", "FORCE_COLOR": "1"},
        {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"},
        {"LC_ALL": "xx_YY.nonsense"},
        {"PYTHONIOENCODING": "ascii"},
        {"HOME": "/nonexistent", "XDG_CACHE_HOME": "/proc/none"},
    ],
)
def test_odd_variables_change_no_message(variables: dict[str, str]) -> None:
    done = started(MAIN, *WRONG, **variables)
    assert (done.returncode, done.stdout, done.stderr) == (2, "", REFUSED)
