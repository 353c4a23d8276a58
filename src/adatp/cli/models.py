"""``adatp models``: the supported model types, with the results of the conformance suite for each."""

from __future__ import annotations

import json
from importlib.resources import files
from typing import Any

from rich.console import Console
from rich.text import Text

from adatp.cli.console import importing, one_line_warnings, table_of

GENERAL_RULE = (
    "General rule: no family file knows the type. Its videos are found by transformers' conventions. "
    "If these do not account for every placeholder of a prompt, a warning says so and nothing is pruned."
)


def models() -> None:
    """List the supported models and the features that the test suite has verified for each."""
    with importing():
        from adatp.models import REFUSED, by_general_rule, later_version, supported
    tests: dict[str, Any] = json.loads((files("adatp.models") / "tested.json").read_text("utf-8"))
    reasons: list[str] = []
    table = table_of("Model type")
    table.add_column("for example", no_wrap=True)  # complete, to be copied
    table.add_column("all but")
    with one_line_warnings():  # from families of an installed package that can't be loaded
        checkpoints = supported()
    for name, checkpoint in checkpoints.items():
        lacking = []
        for feature, result in tests["families"].get(name, {}).items():
            if result != "yes":
                lacking.append(f"{feature} {_numbered(reasons, result)}")
        tested = ", ".join(lacking) if name in tests["families"] else "not tested"
        if least := later_version(name):
            tested = f"needs transformers {least}"
        table.add_row(Text(name), Text(checkpoint or ""), Text(tested))
    rule = by_general_rule()
    for name in (name for name in rule if name not in REFUSED):
        table.add_row(Text(name), Text("general rule", style="dim"), Text("not tested"))
    for name in (name for name in rule if name in REFUSED):
        table.add_row(
            Text(name), Text("can't be pruned", style="dim"), Text(_numbered(reasons, REFUSED[name]))
        )
    console = Console()
    console.print(table)
    for number, reason in enumerate(reasons, 1):
        console.print(f"[{number}] {reason}.", markup=False, highlight=False, soft_wrap=True)
    meanings = [f"{feature}: {meaning}." for feature, meaning in tests["features"].items()]
    for line in ("", "All is:", *meanings, ""):
        console.print(line, markup=False, highlight=False, style="dim", soft_wrap=True)
    console.print(GENERAL_RULE, highlight=False, soft_wrap=True)
    version = tests["transformers"]
    console.print(
        f"Tested on small random models with transformers {version}; no released checkpoint was run.",
        highlight=False,
        soft_wrap=True,
    )


def _numbered(reasons: list[str], reason: str) -> str:
    """The number of a reason in brackets; a new one is added."""
    if reason not in reasons:
        reasons.append(reason)
    return f"[{reasons.index(reason) + 1}]"
