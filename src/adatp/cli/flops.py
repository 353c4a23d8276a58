"""``adatp flops``: budgets and schedules of a model, from its config alone."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import groupby
from typing import Annotated

import typer
from rich.console import Console
from rich.text import Text

from adatp.cli.asking import by_rule
from adatp.cli.console import PRESET, conventions, importing, progress, table_of, working_on
from adatp.cli.options import (
    MOST_FRAMES,
    SIZE,
    ModelOption,
    SizeOption,
    TargetsOption,
    TextTokensOption,
    TrustOption,
    fractions,
    video_grid,
)
from adatp.cli.terminal import say
from adatp.errors import RefusedError
from adatp.units import amount


def flops(
    model: ModelOption = None,
    frames: Annotated[int, typer.Option(min=1, max=MOST_FRAMES, help="Frames of the video.")] = 32,
    targets: TargetsOption = "0.5,0.273,0.15,0.10",
    text_tokens: TextTokensOption = 30,
    size: SizeOption = SIZE,
    preset: Annotated[
        str,
        typer.Option(help="The paper whose formula counts MACs: fastv, dycoke, pyramiddrop or fastvid."),
    ] = PRESET,
    trusted: TrustOption = False,
) -> None:
    """Show budgets and schedules of a model, from its config alone."""
    ratios = fractions(targets)
    with importing():
        from adatp.budget import BudgetError
        from adatp.flops import PRESETS, DecoderShape, paper_macs
        from adatp.layout import PromptCounts
        from adatp.methods import AdaTP
        from adatp.models import family_of
        from adatp.session.loading import load_config, source_of
    if preset not in PRESETS:
        raise RefusedError(f"--preset is one of {', '.join(PRESETS)}, not {preset!r}")
    with working_on(model):
        methods = [AdaTP(flops=1.0), *(AdaTP(flops=ratio) for ratio in ratios)]
        with progress(f"looking up {source_of(model)}"):
            config = load_config(model, trusted)
        if family_of(config.model_type).by_rule:
            say(f"{source_of(model)}: {by_rule(config)}")
        shape = DecoderShape.from_config(config.get_text_config())
        if preset != PRESET and shape.mixer is not None:
            raise RefusedError(f"--preset {preset} knows no linear attention: leave it out")
        visual = math.prod(video_grid(config, frames, size))
        table = table_of("Target", "reached", "FLOPs", f"MACs ({preset})", "visual tokens by layer")
        for method in methods:
            target = Text(f"{method.flops:.1%}" if method.flops < 1 else "vanilla")
            try:
                plan = method.schedule(shape, PromptCounts(visual, text_tokens, text_tokens))
            except BudgetError as error:
                if error.lowest is None:
                    raise
                table.add_row(target, Text("no", "red"), "", "", f"the lowest is {error.lowest:.2%}")
                continue
            macs = amount(paper_macs(shape, plan.visual, preset))
            table.add_row(target, f"{plan.ratio:.2%}", amount(plan.flops), macs, _runs(plan.visual))
        console = Console()
        console.print(
            Text(
                f"{config.model_type}, {shape.layers} layers, {frames} frames: {visual} visual and "
                f"{text_tokens} other tokens"
            )
        )
        console.print(table)
        console.print(conventions(preset), style="dim", highlight=False)


def _runs(counts: Sequence[int]) -> str:
    """Counts of layers as text; equal neighbours are merged."""
    groups = [(count, len(list(group))) for count, group in groupby(counts)]
    return " ".join(str(count) if times == 1 else f"{count}×{times}" for count, times in groups)
