"""The printed output of ``adatp ask``."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from rich.console import Console
from rich.text import Text

from adatp.cli.asking import Request, show_answers
from adatp.cli.console import CONVENTIONS, PRESET, table_of
from adatp.units import amount, milliseconds

if TYPE_CHECKING:
    from adatp import Answer


def show_comparison(console: Console, request: Request, result: Answer, vanilla: Answer | None) -> None:
    """Print an answer and its cost, with vanilla's next to it if that was run."""
    runs = [result] if vanilla is None else [vanilla, result]
    show_answers(console, request, runs)
    if vanilla is not None:
        same = result.text == vanilla.text
        console.print(
            Text("Both answers agree." if same else "The answers differ.", "bold" if same else "bold red")
        )

    names = [each.report.method for each in runs]
    table = table_of("", *names, "of vanilla")

    def compare(label: str, values: Sequence[float], show: Callable[[float], str], base: float = 0) -> None:
        base = values[0] if vanilla is not None else base
        table.add_row(label, *map(show, values), f"{values[-1] / base:.1%}" if base else "")

    reports, cost = [each.report for each in runs], [each.report.flops for each in runs]
    visual = [f"{sum(r.prompt_visual_tokens)} → {sum(r.visual_tokens[-1])}" for r in reports]
    table.add_row("Visual tokens, prompt → last layer", *visual, end_section=True)
    compare("FLOPs: decoder's prefill", [c.decoder for c in cost], amount, cost[0].decoder_vanilla)
    compare("FLOPs: whole request", [c.request for c in cost], amount, cost[0].request_vanilla)
    compare(f"MACs as in papers ({PRESET})", [c.paper for c in cost], amount, cost[0].paper_vanilla)
    table.add_section()
    times = [report.milliseconds for report in reports]
    steps = [max(1, report.decode_steps) for report in reports]
    for label, stage in (("decode of the video", "video"), ("preprocessing", "preprocess")):
        table.add_row(f"Time: {label}", *[milliseconds(request.prompt.milliseconds[stage])] * len(runs), "")
    compare("Time: vision", [ms.get("vision", 0) for ms in times], milliseconds)
    signals = f"Time: relevance ({result.report.relevance})"
    table.add_row(signals, *(milliseconds(ms.get("relevance", 0)) for ms in times), "")
    compare("Time: prefill", [ms.get("prefill", 0) for ms in times], milliseconds)
    compare("Time: decode", [ms.get("decode", 0) for ms in times], milliseconds)
    per_token = [ms.get("decode", 0) / n for ms, n in zip(times, steps, strict=True)]
    compare("Time: decode, per token", per_token, milliseconds)
    compare("Time: all of generate", [each.milliseconds for each in runs], milliseconds)
    console.print(table)
    timed = "after a short warm-up of each" if vanilla is not None else "with what a first run costs"
    console.print(f"{CONVENTIONS} Times of one run, {timed}.", style="dim", highlight=False)
