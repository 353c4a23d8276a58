"""``adatp eval``: methods compared at equal FLOPs."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from adatp.cli.evaluating import (
    BatchOption,
    DisturbOption,
    Evaluation,
    FrameCountsOption,
    LimitOption,
    PlotOption,
    ResultsOption,
    SplitOption,
    ThreadsOption,
    WorldOption,
)
from adatp.cli.options import DeviceOption, DtypeOption, ModelOption, TargetsOption, TrustOption, fractions
from adatp.errors import RefusedError
from adatp.small_files import SmallFileError, read_small_json

if TYPE_CHECKING:
    from adatp.evaluation import Entrant


def evaluate(
    model: ModelOption = None,
    methods: Annotated[
        str, typer.Option(help="Methods and baselines, separated by commas; vanilla is always run.")
    ] = "all",
    targets: TargetsOption = "0.5,0.273,0.15,0.10",
    frames: FrameCountsOption = "16,32",
    split: SplitOption = "test",
    world: WorldOption = None,
    disturb: DisturbOption = "none",
    settings: Annotated[
        Path | None,
        typer.Option(
            help="A JSON file of parameters, method -> parameter -> value, from benchmarks/tune.py.",
            show_default="each method's own",
        ),
    ] = None,
    limit: LimitOption = 200,
    batch: BatchOption = 1,
    json_file: ResultsOption = None,
    plot: PlotOption = None,
    threads: ThreadsOption = None,
    device: DeviceOption = "auto",
    dtype: DtypeOption = "auto",
    trusted: TrustOption = False,
) -> None:
    """Compare methods at equal FLOPs on the questions of a synthetic world."""
    ratios = fractions(targets)
    tuned = None if settings is None else read_settings(settings)

    def entrants(_: int) -> list[Entrant]:
        from adatp import evaluation

        known = evaluation.names()
        wanted = known if methods == "all" else [name.strip() for name in methods.split(",")]
        for name in wanted:
            if name not in known:
                raise RefusedError(f"no method {name!r}; there are {', '.join(known)}")
        return evaluation.entrants(wanted, ratios, tuned)

    asked = Evaluation(
        command="eval",
        model=model,
        frames=frames,
        split=split,
        limit=limit,
        json_file=json_file,
        plot=plot,
        threads=threads,
        device=device,
        dtype=dtype,
        trusted=trusted,
        world=world,
        disturb=disturb,
        batch=batch,
        inputs=() if settings is None else (("the file of --settings", settings),),
    )
    asked.run(entrants)


def read_settings(path: Path) -> Any:
    """The parameters in a file of --settings. For a file of benchmarks/tune.py, the tuned ones."""
    from adatp.evaluation import SettingsError, check_settings

    try:
        found = read_small_json(path)
    except SmallFileError as error:
        raise RefusedError(f"--settings: {path} can't be read ({error})") from None
    if isinstance(found, dict) and "tuned" in found:
        found = found["tuned"]
    try:
        return check_settings(found)
    except SettingsError as error:
        raise RefusedError(f"--settings: {path}: {error}") from None
