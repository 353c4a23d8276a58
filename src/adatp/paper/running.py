"""Runs a plan, one run of lmms-eval after the other, and continues a stopped plan."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from importlib.util import find_spec
from pathlib import Path

from adatp.errors import RefusedError
from adatp.locking import lock
from adatp.paper.gathering import GatheringError, Outcome, gather
from adatp.paper.plan import VANILLA, Plan, Run
from adatp.signals import interrupted_by_sigterm

LOG = "log.txt"
"""The output of lmms-eval in one run."""


def check_harness() -> None:
    """Refuse to begin if lmms-eval is missing.

    Raises:
        RefusedError: it is not installed here.
    """
    if find_spec("lmms_eval") is None:
        raise RefusedError('lmms-eval is not installed: pip install "adatp[lmms-eval]"')


def command_of(run: Run, out: Path) -> list[str]:
    """The command that starts one run.

    Args:
        run: the run.
        out: the folder of all results.
    """
    plan, (first, *rest) = run.plan, run.plan.launch
    command = [sys.executable if first == "python" else first, *rest]
    command += ["--model", "adatp", "--model_args", run.model_args, "--tasks", run.task.name]
    command += ["--batch_size", str(plan.batch_size), "--log_samples", "--output_path", str(out / run.folder)]
    command += [] if plan.limit is None else ["--limit", str(plan.limit)]
    return command + ([] if plan.include_path is None else ["--include_path", plan.include_path])


def outcomes(runs: Sequence[Run], out: Path) -> dict[Run, Outcome]:
    """The runs that are complete.

    Raises:
        GatheringError: a folder holds the results of another plan, or is damaged.
    """
    found = {}
    for run in runs:
        outcome = Outcome.read(out / run.folder)
        if outcome is None:
            continue
        if outcome.facts != run.facts():
            held, wanted = outcome.facts, run.facts()
            name = next(key for key in {**held, **wanted} if held.get(key) != wanted.get(key))
            raise GatheringError(
                f"{out / run.folder} holds results of another plan: {name} is {held.get(name)!r} there, "
                f"{wanted.get(name)!r} here; give another --out"
            )
        found[run] = outcome
    return found


def carry_out(
    runs: Sequence[Run],
    out: Path,
    environment: Mapping[str, str] | None = None,
    progress: Callable[[Run, Outcome | str | None], None] = lambda run, result: None,
) -> dict[Run, Outcome]:
    """Run all incomplete runs. A run that fails is skipped, and the next call tries it again.

    Args:
        runs: what to run.
        out: the folder of all results.
        environment: variables for lmms-eval in addition to those of this process.
        progress: called with a run before it begins (None), and with its outcome, or why it failed.

    Returns:
        The complete runs.

    Raises:
        GatheringError: see `outcomes`.
        RefusedError: another process runs into the folder, or lmms-eval can't be started.
    """
    complete = outcomes(runs, out)
    for run in runs:
        if run in complete:
            continue
        folder = out / run.folder
        folder.mkdir(parents=True, exist_ok=True)
        with _alone(folder):
            if run in (found := outcomes([run], out)):  # by another process, meanwhile
                complete |= found
                continue
            progress(run, None)
            for left in folder.iterdir():  # from a run that was stopped
                if left.is_dir():
                    shutil.rmtree(left)
            code = _start(command_of(run, out), folder / LOG, environment or {})
            try:
                outcome = gather(folder, run.facts())
            except GatheringError as error:
                progress(run, f"{error} (exit code {code})")
                continue
            if code:  # results are written before the documents that they are of
                progress(run, f"{folder}: lmms-eval ended with exit code {code} (its messages are in {LOG})")
                continue
            outcome.write(folder)
        complete[run] = outcome
        progress(run, outcome)
    return complete


def _start(command: Sequence[str], log: Path, environment: Mapping[str, str]) -> int:
    """Run a command to its end, with its output in a file. It ends with this process."""
    with log.open("wb") as file, interrupted_by_sigterm():
        try:
            process = subprocess.Popen(
                command, stdout=file, stderr=subprocess.STDOUT, env={**os.environ, **environment}
            )
        except OSError as error:
            raise RefusedError(f"{command[0]}: can't be started ({error.strerror})") from None
        try:
            return process.wait()
        finally:
            if process.poll() is None:
                process.terminate()
                with suppress(subprocess.TimeoutExpired):
                    process.wait(20)
                process.kill()


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Keep other processes out of a run's folder while this one lives."""
    with (folder / ".lock").open("w") as file:
        if not lock(file):
            raise RefusedError(f"{folder}: another process runs this; give it its own --shard")
        yield


def hours(runs: Sequence[Run], complete: Mapping[Run, Outcome]) -> float:
    """Estimate how many hours runs take.

    A document takes as long as in the complete runs of the model and the task, or else as long as the plan
    estimates for vanilla. The estimate ignores pruning, since reading videos and the vision tower take most
    of the time.
    """
    seconds = 0.0
    for run in runs:
        limit = run.plan.limit
        documents = run.task.documents if limit is None else min(limit, run.task.documents)
        measured = [
            outcome.seconds / len(outcome.documents)
            for other, outcome in complete.items()
            if other.model == run.model and other.task == run.task and outcome.documents
        ]
        seconds += documents * (max(measured) if measured else run.model.seconds)
    return seconds / 3600


def described(plan: Plan, runs: Sequence[Run], complete: Mapping[Run, Outcome], out: Path) -> str:
    """Describe the runs as a text: one command per line, and how long all may take."""
    waiting = [run for run in runs if run not in complete]
    lines = []
    for run in waiting:
        command = command_of(run, out)
        if plan.launch[0] == "python":
            command[0] = "python"
        lines.append(shlex.join(command))
    vanilla = sum(run.method == VANILLA for run in waiting)
    lines.append("")
    lines.append(
        f"{len(waiting)} of {len(runs)} runs are left ({vanilla} of vanilla): "
        f"about {hours(waiting, complete):.1f} hours, reckoned as if nothing were pruned."
    )
    return "\n".join(lines)
