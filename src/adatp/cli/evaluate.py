"""``adatp eval``: methods compared at equal FLOPs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from adatp.cli.evaluating import (
    DisturbOption,
    Evaluation,
    FramesOption,
    JsonOption,
    LimitOption,
    PlotOption,
    SplitOption,
    ThreadsOption,
    WorldOption,
)
from adatp.cli.options import DeviceOption, DtypeOption, ModelOption, TargetsOption, TrustOption, fractions
from adatp.errors import RefusedError

if TYPE_CHECKING:
    from adatp.evaluation import Entrant


def evaluate(
    model: ModelOption = None,
    methods: Annotated[
        str, typer.Option(help="Methods and baselines, separated by commas; vanilla is always run.")
    ] = "all",
    targets: TargetsOption = "0.5,0.273,0.15,0.10",
    frames: FramesOption = "16,32",
    split: SplitOption = "test",
    world: WorldOption = None,
    disturb: DisturbOption = "none",
    limit: LimitOption = 200,
    json_file: JsonOption = None,
    plot: PlotOption = None,
    threads: ThreadsOption = None,
    device: DeviceOption = "auto",
    dtype: DtypeOption = "auto",
    trusted: TrustOption = False,
) -> None:
    """Compare methods at equal FLOPs on the questions of a synthetic world."""
    ratios = fractions(targets)

    def entrants(_: int) -> list[Entrant]:
        from adatp import evaluation

        known = evaluation.names()
        wanted = known if methods == "all" else [name.strip() for name in methods.split(",")]
        for name in wanted:
            if name not in known:
                raise RefusedError(f"no method {name!r}; there are {', '.join(known)}")
        return evaluation.entrants(wanted, ratios)

    asked = Evaluation(
        "eval", model, frames, split, limit, json_file, plot, threads, device, dtype, trusted, world, disturb
    )
    asked.run(entrants)
