"""``adatp ablate``: variants of AdaTP compared at equal FLOPs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

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

if TYPE_CHECKING:
    from adatp.evaluation import Entrant


def ablate(
    model: ModelOption = None,
    targets: TargetsOption = "0.273",
    frames: FrameCountsOption = "16",
    split: SplitOption = "test",
    world: WorldOption = None,
    disturb: DisturbOption = "none",
    paper: Annotated[
        bool,
        typer.Option(
            "--paper", help="Vary the paper's method, without the early stage, instead of the default."
        ),
    ] = False,
    limit: LimitOption = 200,
    batch: BatchOption = 1,
    json_file: ResultsOption = None,
    plot: PlotOption = None,
    threads: ThreadsOption = None,
    device: DeviceOption = "auto",
    dtype: DtypeOption = "auto",
    trusted: TrustOption = False,
) -> None:
    """Compare variants of AdaTP, each with one thing changed, with the full one."""
    ratios = fractions(targets)

    def entrants(layers: int) -> list[Entrant]:
        from adatp import evaluation

        return evaluation.ablations(ratios, layers, paper)

    asked = Evaluation(
        command="ablate",
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
    )
    asked.run(entrants)
