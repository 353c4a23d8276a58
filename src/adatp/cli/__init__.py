"""The command ``adatp``, with a file for each command.

Answers go to stdout; progress, warnings and errors to stderr.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
from functools import cache
from importlib.metadata import version
from typing import Annotated, Any

import typer
from typer import rich_utils

from adatp.cli import (
    ablate,
    ask,
    bias,
    convert,
    demo,
    doctor,
    evaluate,
    flops,
    models,
    paper,
    run,
    serve,
    show,
)
from adatp.cli.examples import EXAMPLES, OVERVIEW, epilog
from adatp.cli.terminal import (
    FULL,
    Interrupts,
    any_encoding,
    flush,
    give_up_stdout,
    has_working_folder,
    open_closed_streams,
    reader_has_left,
    say,
    wide_enough,
)
from adatp.errors import RefusedError

app = typer.Typer(rich_markup_mode="rich", pretty_exceptions_enable=False)


# Ranges of numbers would take half of each line of a help text. An error says the range.
rich_utils.RANGE_STRING = ""

# Typer raises click's exceptions, or from 0.20 on those of its own copy of click: use what it has.
_UsageError: Any = typer.BadParameter.__mro__[1]
_ClickError: Any = typer.BadParameter.__mro__[2]


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command ``adatp``.

    Args:
        argv: arguments, without the program's name; None: the process's own.

    Returns:
        The exit code: 0; 2 on bad input, with one line on stderr; 130 if interrupted; 1 without a word if
        whoever read stdout has left.
    """
    open_closed_streams()
    with any_encoding(), wide_enough():
        return _run(argv)


@cache
def _command() -> Any:
    """All commands in click's form. Typer reads every signature for it, which takes a while."""
    return typer.main.get_command(app)


def _run(argv: Sequence[str] | None) -> int:
    try:
        with Interrupts.noted():
            code = _command().main(args=argv, prog_name="adatp", standalone_mode=False)
            flush()
        return 130 if code is None and Interrupts.pressed else code or 0
    except RefusedError as error:
        message = str(error)
    except _ClickError as error:
        command_path = error.ctx.command_path if getattr(error, "ctx", None) else "adatp"
        hint = f" (see {command_path} --help)" if isinstance(error, _UsageError) else ""
        message = f"{error.format_message()}{hint}"
    except typer.Abort:  # Typer turns an interrupt into this, or exits with 130 itself
        return 130
    except BrokenPipeError:
        if not reader_has_left():
            raise
        give_up_stdout()
        return 1
    except OSError as error:
        if (reason := _reason(error, sys.argv if argv is None else argv)) is None:
            raise
        message = reason
    say(message)
    return 2


def _reason(error: OSError, arguments: Sequence[str]) -> str | None:
    """What to tell the user about an error of the system; None if it may be a bug."""
    if error.errno in FULL:
        give_up_stdout()
        return f"the output can't be written ({error.strerror})"
    if "temporary directory" in str(error.strerror):  # of Python's tempfile
        return "no folder for temporary files can be written: set TMPDIR to one"
    if error.filename and "--install-completion" in arguments:
        return f"{os.fsdecode(error.filename)}: can't be written ({error.strerror})"
    if not has_working_folder():
        return "the working folder is gone: change to one that is there"
    return None


def _show_version(wanted: bool) -> None:
    if wanted:
        print(f"adatp {version('adatp')}")
        raise typer.Exit


@app.callback(invoke_without_command=True, epilog=epilog(OVERVIEW))
def _adatp(
    context: typer.Context,
    _version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    """Ask Video LLMs about videos for a fraction of the compute, by pruning visual tokens."""
    if context.invoked_subcommand is None:
        print(context.get_help())


_PANELS: dict[str, dict[str, Callable[..., None]]] = {
    "Ask and look": {
        "ask": ask.ask,
        "run": run.run,
        "show": show.show,
        "demo": demo.demo,
        "serve": serve.serve,
    },
    "Models and budgets": {
        "models": models.models,
        "flops": flops.flops,
        "doctor": doctor.doctor,
        "convert": convert.convert,
    },
    "Compare and measure": {
        "eval": evaluate.evaluate,
        "ablate": ablate.ablate,
        "bias": bias.bias,
        "paper": paper.paper,
    },
}
"""Panels of ``adatp --help``: name -> commands."""

for _panel, _functions in _PANELS.items():
    for _name, _function in _functions.items():
        app.command(_name, rich_help_panel=_panel, epilog=epilog(EXAMPLES[_name]))(_function)
