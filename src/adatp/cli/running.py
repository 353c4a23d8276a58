"""Helpers of ``adatp run`` around the run itself: checks, progress, the summary."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.text import Text

from adatp.cli.asking import load_weights, open_session
from adatp.cli.console import progress_bar
from adatp.cli.files import check_folder, check_writable, keep_inputs, model_files, no_room
from adatp.cli.options import check_dtype, method_named
from adatp.cli.terminal import plain, say
from adatp.errors import RefusedError
from adatp.machine import cores

if TYPE_CHECKING:
    from adatp.run import Job, Settings, Summary

SECONDS_A_LINE = 60.0
"""Seconds between two lines of progress in a log."""

MOST_WORKERS = 256
"""Most worker processes that can be requested."""

RayOption = Annotated[
    bool, typer.Option("--ray", help="Run on a Ray cluster: the one in RAY_ADDRESS, or one on this machine.")
]
ActorsOption = Annotated[int, typer.Option(min=1, max=100_000, help="With --ray: number of models.")]
ActorGpusOption = Annotated[
    float, typer.Option("--gpus", min=0, max=1024, help="With --ray: GPUs of each model.")
]


def default_workers() -> int:
    """Half of the cores, at least one and at most eight: the model needs some too."""
    return max(1, min(8, cores() // 2))


def check_output(path: Path, input_file: Path, model: str | None) -> None:
    """Refuse an output folder that can't be written, or in which an input would be lost."""
    folder = check_folder(path, "--out", [])
    if folder.is_dir():
        there = [file for file in folder.iterdir() if file.is_file() and file.suffix in (".json", ".jsonl")]
        keep_inputs([("--out", file) for file in there], [("the input", input_file), *model_files(model)])


def check_summary(path: Path | None, folder: Path, input_file: Path, model: str | None) -> None:
    """Refuse a summary that can't be written, or that would overwrite an input or an answer."""
    if path is None:
        return
    target = check_writable(path)
    if target.parent == folder:
        raise RefusedError(f"--json {path}: in the folder of --out, which is for answers; give another place")
    keep_inputs([("--json", target)], [("the input", input_file), *model_files(model)])


def settings_of(
    method: str, flops: float | None, frames: int, max_new_tokens: int, strict: bool = False
) -> Settings:
    """The settings of rows that give none themselves."""
    from adatp.run import Settings

    method_named(method, flops)
    return Settings(method, flops, frames, max_new_tokens, strict)


@contextmanager
def counted(doing: str) -> Iterator[Callable[[int, int], None]]:
    """A bar on stderr with the rate and the remaining time. If stderr is no terminal, a line per minute."""
    began = said = time.monotonic()
    first: int | None = None
    with progress_bar(doing) as bar:

        def update(done: int, total: int) -> None:
            nonlocal first, said
            first, now = done if first is None else first, time.monotonic()
            rate = (done - first) / max(now - began, 1e-9)
            note = f"{rate:.1f} rows/s" if now - began > 1 else ""
            bar(done, total, note)
            if not sys.stderr.isatty() and now - said > SECONDS_A_LINE:
                said = now
                left = f", {timedelta(seconds=round((total - done) / rate))} left" if rate else ""
                say(f"{doing}: {done} of {total} rows, {note}{left}")

        yield update


@dataclass(frozen=True)
class Request:
    """A run with its options.

    Attributes:
        rows: the input.
        out: folder of the answers.
        model: a folder or an id on the hub; None: the embedded model.
        root: the folder that relative paths of videos start from.
        batch: most prompts in a batch.
        workers: processes that read the next videos.
        device: a torch device, or "auto".
        dtype: name of a dtype, or "auto".
        trusted: whether the checkpoint's code may run.
    """

    rows: Path
    out: Path
    model: str | None
    root: Path
    batch: int
    workers: int
    device: str
    dtype: str
    trusted: bool

    @property
    def folder(self) -> Path:
        """The real path of the folder of the answers."""
        return Path(os.path.realpath(self.out))

    def check(self, summary: Path | None) -> None:
        """Refuse outputs that can't be written, or would destroy an input, before anything slow."""
        check_dtype(self.dtype)
        check_output(self.out, self.rows, self.model)
        check_summary(summary, self.folder, self.rows, self.model)

    def job(self, defaults: Settings, size: int, shard: str, again: bool) -> Job:
        """The rows that are asked, as a job."""
        from adatp.run import Job, Shard

        return Job(self.rows, self.root, defaults, size, Shard.named(shard), again)

    def run(self, job: Job) -> Summary:
        """Ask the questions that are not answered yet, with the model in this process."""
        from adatp.run import Answering, run
        from adatp.run.answering import cpu_threads

        scanned = job.scan()
        session = open_session(self.model, self.device, self.dtype, self.trusted)
        folder = job.folder(self.folder, scanned, session.source, self.dtype)
        complete = not job.again and folder.has(scanned.parts)
        count = 0 if complete else self.workers
        with self._resumable(), Answering(session, self.batch, count) as answering:
            if not complete:
                load_weights(session)
            with cpu_threads(session, count, cores()), counted("answering") as update:
                return run(job, scanned, folder, answering, update)

    def run_on_ray(self, job: Job, actors: int, gpus: float) -> Summary:
        """Do the same as `run` on a Ray cluster."""
        from adatp.integrations import ray
        from adatp.session.loading import load_config, source_of

        scanned = job.scan()
        source = source_of(self.model)
        load_config(source, self.trusted)  # all actors would refuse it
        model = ray.Model(source, self.batch, self.workers, self.device, self.dtype, self.trusted)
        with self._resumable(), counted("answering") as update:
            cluster = ray.Cluster(actors, num_gpus=gpus)
            return ray.run(job, scanned, self.folder, model, cluster, update)

    @contextmanager
    def _resumable(self) -> Iterator[None]:
        """Print how to continue if the run is interrupted or the disk is full."""
        with no_room(self.folder, "--out", "run it again to go on"):
            try:
                yield
            except KeyboardInterrupt:
                say("interrupted; run it again to go on")
                raise


def show_summary(console: Console, summary: Summary, folder: Path) -> None:
    """Print the results of the run."""
    rate = f" ({summary.asked / summary.seconds:.1f} a second)" if summary.asked and summary.seconds else ""
    console.print(
        Text(
            f"{summary.rows - summary.failed:,} of {summary.rows:,} rows answered, {summary.failed:,} failed",
            "bold",
        )
    )
    console.print(f"this run: {summary.asked:,} rows in {summary.seconds:.1f} s{rate}", highlight=False)
    if summary.videos or summary.videos_shared:
        console.print(
            f"videos encoded: {summary.videos:,}; questions that shared one: {summary.videos_shared:,}",
            highlight=False,
        )
    if summary.flops_ratio is not None:
        console.print(
            f"FLOPs of the prefill: {summary.flops_ratio:.1%} of vanilla, on average", highlight=False
        )
    for name, error in summary.examples:
        console.print(Text(plain(f"failed: {name}: {error}"), "yellow"), soft_wrap=True)
    if (more := summary.failed - len(summary.examples)) > 0:
        console.print(f'... and {more:,} more; their rows have the reason under "error"', highlight=False)
    console.print(Text(plain(f"answers: {folder}{os.sep}part-*.jsonl")), soft_wrap=True)
