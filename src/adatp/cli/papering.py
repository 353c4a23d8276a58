"""Helpers of ``adatp paper``: run what is missing, and write the tables of complete runs."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

from adatp.cli.files import check_folder, write
from adatp.cli.terminal import say
from adatp.errors import RefusedError
from adatp.plain_json import to_json
from adatp.shard import Shard

if TYPE_CHECKING:
    from adatp.paper.gathering import Outcome
    from adatp.paper.plan import Plan, Run


def carry_out(
    plan: Plan,
    out: Path,
    shard: str,
    dry_run: bool,
    gather_only: bool,
    environment: Mapping[str, str] | None = None,
) -> None:
    """Run a plan, or print it, and make its tables.

    Args:
        plan: the plan to run.
        out: the folder of all results.
        shard: "i/n", the share of the runs, see `Shard`.
        dry_run: whether to only print the runs.
        gather_only: whether to only make the tables.
        environment: variables for lmms-eval.

    Raises:
        RefusedError: something is wrong with the options or the folder, or runs are missing at the end.
    """
    from adatp.paper import running
    from adatp.paper.gathering import GatheringError

    share = Shard.named(shard)
    runs = [run for number, run in enumerate(plan.runs()) if share.has(number)]
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
    """Write table.md and table.json, and print the first."""
    from adatp.paper.table import markdown, rows_of

    if not complete:
        return
    rows = rows_of(plan, complete)
    text = markdown(plan, rows)
    facts = {"version": version("adatp"), "frames": plan.frames, "rows": rows}
    write(out / "table.json", to_json(facts, indent=1) + "\n")
    write(out / "table.md", text)
    print(text, end="")


def _tell(run: Run, result: Outcome | str | None) -> None:
    """Print the progress on stderr."""
    if result is None:
        say(f"{run.folder}: running")
    elif isinstance(result, str):
        say(f"{run.folder}: failed: {result}")
    else:
        failed = f", {result.failed} documents without an answer" if result.failed else ""
        say(f"{run.folder}: {run.task.metric} {result.score:.1f} in {result.seconds:.0f} s{failed}")
