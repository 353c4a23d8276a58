"""The examples of every help text are right, and shells complete the commands."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from adatp.cli import _command
from adatp.cli.examples import EXAMPLES, OVERVIEW, QWEN
from clips import write_clip
from families import Qwen25VL, build
from processors import PROCESSORS
from running import Run

CALLS = [call for examples in (*EXAMPLES.values(), OVERVIEW) for call in examples.values()]

CHEAP = (f"ask holiday.mp4 .+ --model {QWEN} --compare", "models", "flops", "doctor", "paper --show-plan")
"""What takes seconds with a small model. Tests of pages run those without a model. The others serve, or ask
hundreds of questions, or need other files."""

WIDE = {"COLUMNS": "200", "TERMINAL_WIDTH": "200"}
"""A terminal in which no example is wrapped."""


def test_every_command_has_an_example_of_itself() -> None:
    assert set(EXAMPLES) == set(_command().commands)
    for name, examples in EXAMPLES.items():
        assert examples
        assert all(call.split()[:2] == ["adatp", name] for call in examples.values())


@pytest.mark.parametrize("call", CALLS)
def test_an_example_parses(call: str) -> None:
    _, name, *arguments = shlex.split(call)
    _command().commands[name].make_context(name, arguments)


@pytest.mark.parametrize("name", EXAMPLES)
def test_help_shows_the_examples(name: str, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    for variable, value in WIDE.items():
        monkeypatch.setenv(variable, value)
    code, out, _ = run(name, "--help")
    lines = [line.strip() for line in out.splitlines()]
    assert code == 0
    for what, call in EXAMPLES[name].items():
        assert lines[lines.index(f"{what}:") + 1] == call


@pytest.fixture(scope="module")
def qwen(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small random checkpoint that stands for the one of the hub."""
    folder = tmp_path_factory.mktemp("checkpoint")
    build(Qwen25VL).save_pretrained(folder)
    PROCESSORS[Qwen25VL]().save_pretrained(folder)
    return folder


@pytest.mark.parametrize(
    "call", [call for call in dict.fromkeys(CALLS) if re.match(f"adatp ({'|'.join(CHEAP)})", call)]
)
def test_a_cheap_example_works(
    call: str, qwen: Path, run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_clip(tmp_path / "holiday.mp4")
    monkeypatch.chdir(tmp_path)
    code, out, err = run(*(word.replace(QWEN, str(qwen)) for word in shlex.split(call)[1:]))
    assert (code, err.count("Traceback")) == (0, 0), err
    assert out.strip()


def completion(shell: str) -> str:
    """The script that ``adatp --show-completion`` prints in a shell."""
    done = subprocess.run(
        [sys.executable, "-c", "import sys; from adatp.cli import main; sys.exit(main())"],
        env={**os.environ, "_ADATP_COMPLETE": f"source_{shell}"},
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_the_completion_script_is_one_of_the_shell(shell: str) -> None:
    script = completion(shell)
    assert "adatp" in script
    if shutil.which(shell) is None:
        pytest.skip(f"{shell} is not installed, so its script is not parsed")
    subprocess.run([shell, "-n"], input=script, text=True, check=True)


@pytest.mark.skipif(shutil.which("bash") is None, reason="bash is not installed")
@pytest.mark.parametrize(
    ("words", "found"), [("adatp d", {"demo", "doctor"}), ("adatp flops --fr", {"--frames"})]
)
def test_bash_completes_commands_and_options(words: str, found: set[str], tmp_path: Path) -> None:
    """The script, in a bash where ``adatp`` is a command."""
    command = tmp_path / "adatp"
    command.write_text(f"#!{sys.executable}\nimport sys; from adatp.cli import main; sys.exit(main())\n")
    command.chmod(0o755)
    typed = f"COMP_WORDS=({words}); COMP_CWORD={len(words.split()) - 1}; _adatp_completion adatp"
    done = subprocess.run(
        ["bash", "-c", f'{completion("bash")}\n{typed}\nprintf "%s\\n" "${{COMPREPLY[@]}}"'],
        env={**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert set(done.stdout.split()) == found
