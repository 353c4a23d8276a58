"""The page of the command line, made from the commands themselves."""

from __future__ import annotations

import re
from typing import Any

from adatp.cli import _command
from adatp.cli.examples import EXAMPLES

LONGEST = 80
"""Characters of a line of an example that every screen but a phone's shows without scrolling."""

HEAD = """# Command line

`adatp COMMAND --help` prints the same. Answers go to standard output. Progress, warnings and errors go to
standard error. The exit code is 0, or 2 on bad input, which one line explains, or 130 after Ctrl-C.
`adatp run` ends with 1 if some rows failed. `adatp serve` ends with 0 after Ctrl-C, which stops it.
"""


def page() -> str:
    """Every command with its arguments and options, in the order of `adatp --help`."""
    commands = _command().commands
    index = [
        f"| [`adatp {name}`](#adatp-{name}) | {summary(command)} |" for name, command in commands.items()
    ]
    parts = [HEAD, "\n".join(["| Command | What it does |", "| --- | --- |", *index])]
    parts += [section(name, command) for name, command in commands.items()]
    return "\n\n".join(parts) + "\n"


def summary(command: Any) -> str:
    """The first sentence of a command's help."""
    return text(re.split(r"\n\n|(?<=\.) ", (command.help or "").strip())[0])


def section(name: str, command: Any) -> str:
    """One command."""
    arguments = [each for each in command.params if each.param_type_name == "argument"]
    options = [each for each in command.params if each.param_type_name == "option" and each.name != "help"]
    usage = " ".join(["adatp", name, *(f"[{metavar(each)}]" for each in arguments), "[OPTIONS]"])
    parts = [f"## adatp {name}", paragraphs(command.help or ""), f"```text\n{usage}\n```", examples(name)]
    if arguments:
        rows = [f"| `{metavar(each)}` | {text(getattr(each, 'help', '') or '')} |" for each in arguments]
        parts.append("\n".join(["| Argument | |", "| --- | --- |", *rows]))
    rows = [f"| {names(each)} | {default(each)} | {text(each.help or '')} |" for each in options]
    parts.append("\n".join(["| Option | Default | |", "| --- | --- | --- |", *rows]))
    return "\n\n".join(parts)


def examples(name: str) -> str:
    """The examples at the end of a command's help."""
    return "\n\n".join(f"{what}:\n\n```sh\n{folded(call)}\n```" for what, call in EXAMPLES[name].items())


def folded(call: str) -> str:
    """A long command in several lines, each of which ends before an option."""
    if len(call) <= LONGEST:
        return call
    place = call.rindex(" --", 0, LONGEST)
    return f"{call[:place]} \\\n {folded(call[place:])}"


def names(option: Any) -> str:
    """The names of an option, and what it takes."""
    shown = [f"`{each}`" for each in (*option.opts, *option.secondary_opts)]
    if not option.is_flag:
        shown[-1] = f"{shown[-1][:-1]} {metavar(option)}`"
    return ", ".join(shown)


def metavar(parameter: Any) -> str:
    """How the value is called."""
    if parameter.metavar or parameter.param_type_name == "argument":
        return str(parameter.metavar or parameter.name).upper().strip("[]")
    kind = parameter.type_descriptor.annotation
    return {"str": "TEXT", "int": "N", "float": "X"}.get(kind.__name__, kind.__name__.upper())


def default(option: Any) -> str:
    """What holds if the option is left out."""
    if option.is_flag or option.default is None or getattr(option, "show_default", True) is False:
        return ""
    return f"`{option.default}`"


def text(help_text: str) -> str:
    """A help text in one line, without the marks that only a terminal needs."""
    plain = re.sub(r"\[/?[a-z ]+\]", "", help_text)
    return " ".join(plain.split()).replace("|", "\\|")


def paragraphs(help_text: str) -> str:
    """A help text with its paragraphs."""
    return "\n\n".join(text(part) for part in re.split(r"\n\s*\n", help_text.replace("\b", "").strip()))
