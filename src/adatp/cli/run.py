"""``adatp run``: many questions about many videos."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from adatp.cli.console import wide_console, working_on
from adatp.cli.files import write
from adatp.cli.options import (
    MOST,
    DeviceOption,
    DtypeOption,
    FramesOption,
    MethodOption,
    ModelOption,
    NewTokensOption,
    ShardOption,
    StrictOption,
    TargetOption,
    TrustOption,
)
from adatp.cli.running import (
    MOST_WORKERS,
    ActorGpusOption,
    ActorsOption,
    RayOption,
    Request,
    default_workers,
    settings_of,
    show_summary,
)
from adatp.errors import RefusedError
from adatp.plain_json import to_json


def run(
    rows: Annotated[
        Path,
        typer.Argument(
            help="JSON lines or Parquet. Each row has a video, a question, an id if you like, and its own "
            "method, flops, frames, max_new_tokens or strict."
        ),
    ],
    out: Annotated[
        Path, typer.Option("--out", help="Folder of the answers. The same command continues there.")
    ],
    model: ModelOption = None,
    flops: TargetOption = None,
    frames: FramesOption = 32,
    method: MethodOption = "adatp",
    max_new_tokens: NewTokensOption = 64,
    batch: Annotated[int, typer.Option(min=1, max=MOST, help="Most prompts in a batch.")] = 8,
    workers: Annotated[
        int | None,
        typer.Option(
            min=0,
            max=MOST_WORKERS,
            help="Processes that read the next videos; 0: only this one.",
            show_default="half of the cores",
        ),
    ] = None,
    shard: ShardOption = "1/1",
    root: Annotated[
        Path | None,
        typer.Option(help="Folder that relative paths of videos start from.", show_default="the input's"),
    ] = None,
    rows_per_file: Annotated[int, typer.Option(min=1, max=MOST, help="Rows of an output file.")] = 256,
    retry: Annotated[bool, typer.Option("--retry", help="Ask rows again that failed before.")] = False,
    ray: RayOption = False,
    actors: ActorsOption = 1,
    actor_gpus: ActorGpusOption = 0,
    json_file: Annotated[
        Path | None, typer.Option("--json", help="Also write the summary to this file.", show_default=False)
    ] = None,
    device: DeviceOption = "auto",
    dtype: DtypeOption = "auto",
    strict: StrictOption = False,
    trusted: TrustOption = False,
) -> None:
    """Answer many questions about many videos, and go on where that was stopped.

    Exit code: 0 if every row is answered, 1 if some failed (their output says why), 2 on bad input.
    """
    if not ray and (actors != 1 or actor_gpus):
        raise RefusedError("--actors and --gpus are for --ray: add it, or leave them out")
    asked = Request(
        rows=rows,
        out=out,
        model=model,
        root=rows.parent if root is None else root,
        batch=batch,
        workers=default_workers() if workers is None else workers,
        device=device,
        dtype=dtype,
        trusted=trusted,
    )
    asked.check(json_file)
    with working_on(model):
        job = asked.job(
            settings_of(method, flops, frames, max_new_tokens, strict), rows_per_file, shard, retry
        )
        summary = asked.run_on_ray(job, actors, actor_gpus) if ray else asked.run(job)
        if json_file is not None:
            write(Path(os.path.realpath(json_file)), to_json(summary.to_dict()) + "\n")
        show_summary(wide_console(), summary, out)
    if summary.failed:
        raise typer.Exit(1)
