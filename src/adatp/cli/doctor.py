"""``adatp doctor``: what is installed here, and whether a model fits."""

from __future__ import annotations

from typing import Annotated

import typer
from rich.console import Console
from rich.text import Text

from adatp.cli.console import importing, working_on
from adatp.cli.estimating import Wanted, estimate
from adatp.cli.options import (
    SIZE,
    DeviceOption,
    DtypeOption,
    FramesOption,
    NewTokensOption,
    SizeOption,
    TextTokensOption,
    TrustOption,
    check_dtype,
    fractions,
)
from adatp.cli.tables.doctor import footprint_table, installation_table


def doctor(
    model: Annotated[
        str | None,
        typer.Option(
            help="Whether this model fits: a folder, an id on the Hugging Face hub, tiny or scenes.",
            show_default=False,
        ),
    ] = None,
    flops: Annotated[
        float, typer.Option(help="Real FLOPs of the pruned prefill, as a fraction of vanilla.")
    ] = 0.273,
    frames: FramesOption = 32,
    size: SizeOption = SIZE,
    text_tokens: TextTokensOption = 30,
    max_new_tokens: NewTokensOption = 64,
    device: DeviceOption = "auto",
    dtype: DtypeOption = "auto",
    trusted: TrustOption = False,
) -> None:
    """Show what is installed, what is missing, and whether a model fits.

    With --model only the config is read. Memory and FLOPs follow from its shapes, without weights. The time
    is these FLOPs at the speed of a matrix product measured here, so real runs take longer.
    """
    check_dtype(dtype)
    [target] = fractions(str(flops))
    with working_on(model):
        with importing():
            from adatp.doctor import devices, inspect_installation
        found = None
        if model is not None:
            found = estimate(
                Wanted(model, target, frames, size, text_tokens, max_new_tokens, device, dtype, trusted)
            )
        installation = inspect_installation()
        console = Console()
        console.print(installation_table(installation, devices()))
    if found is not None:
        console.print(Text(found.title), highlight=False)
        console.print(footprint_table(found.columns, found.rate))
        console.print(found.verdict(), markup=False, highlight=False)
    for line in installation.advice or ["Nothing is missing."]:
        console.print(line, markup=False, highlight=False)
