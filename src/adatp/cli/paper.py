"""``adatp paper``: the field's benchmarks through lmms-eval, gathered into one table."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Annotated

import typer

from adatp.cli.console import importing
from adatp.cli.options import ShardOption
from adatp.cli.papering import carry_out
from adatp.errors import RefusedError


def paper(
    plan: Annotated[
        Path | None,
        typer.Argument(
            help="A TOML file: models, tasks, frames, budgets, methods.", show_default="the paper's"
        ),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            help="The folder of all results. The same command continues there.",
            show_default="paper, or paper-check with --offline-check",
        ),
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print what would be run, and how long it may take.")
    ] = False,
    show_plan: Annotated[
        bool, typer.Option("--show-plan", help="Print the default plan, to be copied and changed.")
    ] = False,
    shard: ShardOption = "1/1",
    gather_only: Annotated[
        bool, typer.Option("--gather-only", help="Run nothing, only make the tables of complete runs.")
    ] = False,
    offline_check: Annotated[
        bool,
        typer.Option("--offline-check", help="Everything on the embedded model and small local tasks."),
    ] = False,
) -> None:
    """Run the field's benchmarks through lmms-eval, and make one table of them.

    Vanilla and every method at every budget answer every task. Runs that are complete stay as they are.
    Tables are written into the folder as table.md and table.json.
    """
    if show_plan:
        with importing():
            from importlib.resources import files
        print((files("adatp.paper") / "paper.toml").read_text("utf-8"), end="")
        return
    with importing():
        from adatp.paper.plan import read_plan
    if out is None:  # a check leaves real results alone
        out = Path("paper-check" if offline_check else "paper")
    if not offline_check:
        carry_out(read_plan(plan), out, shard, dry_run, gather_only)
        return
    if plan is not None:
        raise RefusedError("--offline-check has a plan of its own: leave the file out")
    with importing():
        from adatp.paper.offline import ENVIRONMENT, offline_plan
    with tempfile.TemporaryDirectory() as folder:
        environment = {name: path.format(folder=folder) for name, path in ENVIRONMENT.items()}
        carry_out(offline_plan(Path(folder)), out, shard, dry_run, gather_only, environment)
