"""The printed output of ``adatp eval`` and ``adatp ablate``."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby
from typing import Any

from rich.console import Console
from rich.text import Text

from adatp.cli.console import table_of, wide_console


def show_rows(rows: Sequence[dict[str, Any]], limit: int) -> None:
    """Print an evaluation. For each number of frames: accuracy, cost, and accuracy by place of the evidence.

    If clips have several lengths, the accuracies of all lengths are printed side by side at the end.
    """
    console = wide_console()
    reference = "full" if any(row.get("variant") == "full" for row in rows) else "vanilla"
    for frames, group in groupby(rows, lambda row: row["frames"]):
        chosen = list(group)
        console.print(Text(f"{chosen[0]['split']} split, {frames} frames, {limit} questions", "bold"))
        table = table_of("", "FLOPs", "tokens", "last", "accuracy", "difference", "changed", "p")
        for row in chosen:
            table.add_row(
                _row_name(row),
                f"{row['flops_ratio']:.1%}",
                f"{row['visual_mean']:.0f}",
                f"{row['visual_last']:.0f}",
                f"{row['accuracy']:.1%}  {100 * row['ci_low']:3.0f}-{100 * row['ci_high']:.0f}",
                *_compared(row),
            )
        console.print(table)
        for by in ("by_type", "by_third"):
            columns = list(dict.fromkeys(name for row in chosen for name in row[by]))
            table = table_of("", *columns)
            for row in chosen:
                table.add_row(
                    _row_name(row),
                    *(f"{row[by][name]['accuracy']:.0%}" if name in row[by] else "" for name in columns),
                )
            console.print(table)
    _show_lengths(console, rows)
    notes = (
        "FLOPs: real ones of the decoder's prefill, scoring included, of vanilla's. Tokens: visual ones, "
        "mean of the layers, and in the last. Accuracy: with its 95 % bootstrap interval. Difference, "
        f"changed (answers that differ) and p (exact McNemar test): against {reference}, question by "
        "question. By third: only questions whose evidence lies in one third of the clip."
    )
    console.print(notes, style="dim", highlight=False)


def _show_lengths(console: Console, rows: Sequence[dict[str, Any]]) -> None:
    lengths = sorted({row["frames"] for row in rows})
    if len(lengths) < 2:
        return
    console.print(Text("accuracy by the number of frames", "bold"))
    table = table_of("", *map(str, lengths))
    found = {(_row_name(row), row["frames"]): row for row in rows}
    for name in dict.fromkeys(map(_row_name, rows)):
        cells = [found.get((name, length)) for length in lengths]
        table.add_row(name, *("" if row is None else f"{row['accuracy']:.1%}" for row in cells))
    console.print(table)


def _row_name(row: dict[str, Any]) -> str:
    label = str(row.get("variant", row["method"]))
    label = label if row["flops_target"] is None else f"{label} {100 * row['flops_target']:.3g}%"
    return f"{label} under {row['disturbance']}" if "disturbance" in row else label


def _compared(row: dict[str, Any]) -> list[str]:
    """A row's comparison with its reference; empty for the reference itself."""
    if row["delta"] is None:
        return ["", "", ""]
    p = "<0.001" if row["p_value"] < 0.001 else f"{row['p_value']:.3f}"
    return [f"{100 * row['delta']:+.1f}", f"{row['changed']:.0%}", p]
