"""``adatp paper``: the field's benchmarks through lmms-eval, gathered into one table."""

from __future__ import annotations

import json
import tempfile
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from adatp.cli.console import importing
from adatp.cli.files import check_folder, write
from adatp.cli.terminal import say
from adatp.errors import RefusedError

if TYPE_CHECKING:
    from adatp.paper.gathering import Outcome
    from adatp.paper.plan import Plan, Run

OFFLINE_FRAMES, OFFLINE_DOCUMENTS = 8, 8
"""Size of what ``--offline-check`` asks."""


def paper(
    plan: Annotated[
        Path | None,
        typer.Argument(
            help="A TOML file: models, tasks, frames, budgets, methods.", show_default="the paper's"
        ),
    ] = None,
    out: Annotated[
        Path, typer.Option(help="The folder of all results. The same command goes on there.")
    ] = Path("paper"),
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print what would be run, and how long it may take.")
    ] = False,
    show_plan: Annotated[
        bool, typer.Option("--show-plan", help="Print the default plan, to copy and change it.")
    ] = False,
    shard: Annotated[str, typer.Option(help="i/n: only every n-th run, for array jobs.")] = "1/1",
    gather_only: Annotated[
        bool, typer.Option("--gather-only", help="Run nothing, make the tables of what is there.")
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
        print((files("adatp.paper") / "paper.toml").read_text(), end="")
        return
    with importing():
        from adatp.paper.plan import read_plan
    if not offline_check:
        _paper(read_plan(plan), out, shard, dry_run, gather_only, {})
        return
    if plan is not None:
        raise RefusedError("--offline-check has a plan of its own: leave the file out")
    with tempfile.TemporaryDirectory() as folder:
        _paper(_offline_plan(Path(folder)), out, shard, dry_run, gather_only, _offline(Path(folder)))


def _paper(
    plan: Plan, out: Path, shard: str, dry_run: bool, gather_only: bool, environment: dict[str, str]
) -> None:
    from adatp.paper import running
    from adatp.paper.gathering import GatheringError

    runs = running.shard_of(plan.runs(), shard)
    try:
        if dry_run:
            print(running.described(plan, runs, running.outcomes(runs, out), out))
            return
        if not gather_only:
            running.check_harness()
            check_folder(out, "--out", ("table.md", "table.json"))
            out.mkdir(exist_ok=True)
            running.carry_out(runs, out, environment, _tell)
        complete = running.outcomes(plan.runs(), out)
    except GatheringError as error:
        raise RefusedError(str(error)) from None
    _write_tables(plan, complete, out)
    if missing := [run for run in runs if run not in complete]:
        names = ", ".join(str(run.folder) for run in missing[:3])
        raise RefusedError(
            f"{len(missing)} of {len(runs)} runs are missing: {names}{', ...' * (len(missing) > 3)}"
        )


def _write_tables(plan: Plan, complete: dict[Run, Outcome], out: Path) -> None:
    """table.md and table.json, and the first to stdout."""
    from adatp.paper.table import markdown, rows_of

    if not complete:
        return
    rows = rows_of(plan, complete)
    text = markdown(plan, rows)
    facts = {"version": version("adatp"), "frames": plan.frames, "rows": rows}
    write(out / "table.json", json.dumps(facts, indent=1) + "\n")
    write(out / "table.md", text)
    print(text, end="")


def _tell(run: Run, result: Outcome | str | None) -> None:
    """Say on stderr how far it is."""
    if result is None:
        say(f"{run.folder}: running")
    elif isinstance(result, str):
        say(f"{run.folder}: failed: {result}")
    else:
        failed = f", {result.failed} documents without an answer" if result.failed else ""
        say(f"{run.folder}: {run.task.metric} {result.score:.1f} in {result.seconds:.0f} s{failed}")


def _offline_plan(folder: Path) -> Plan:
    """Vanilla, AdaTP and one peer on the embedded model."""
    from adatp.paper.offline import TASKS, write_tasks
    from adatp.paper.plan import Model, Plan, Task

    write_tasks(folder / "tasks", OFFLINE_FRAMES, OFFLINE_DOCUMENTS)
    metrics = dict(zip(TASKS, ("mvbench_accuracy", "videomme_perception_score"), strict=True))
    return Plan(
        models=(Model("embedded", "embedded", 0.3),),
        tasks=tuple(Task(name, metric, OFFLINE_DOCUMENTS) for name, metric in metrics.items()),
        frames=OFFLINE_FRAMES,
        budgets=(0.273,),
        methods=("adatp", "fastv"),
        include_path=str(folder / "tasks"),
    )


def _offline(folder: Path) -> dict[str, str]:
    """No hub, and no cache but the folder's."""
    return {
        "HF_HUB_OFFLINE": "1",
        "HF_HOME": str(folder / "hub"),
        "HF_DATASETS_CACHE": str(folder / "datasets"),
    }
