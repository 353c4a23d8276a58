"""How far FLOPs become time and memory: every method against vanilla, the bare model, in one run.

A model of a published shape with random weights reads a prompt with a video and decodes a few tokens. Rounds
of all methods, each begun by another one; medians. The prefill of the decoder includes all that pruning adds:
text relevance, and scoring, selecting and gathering ("overhead"), which have rows of their own. Efficiency is
the ratio of FLOPs over that of the prefill's time. Peak memory includes the weights; on a CPU every method is
given a process of its own for it. `--json` writes everything.
"""

from __future__ import annotations

import argparse
import json
import shlex
import sys
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from measure import NAMES, entrants, machine, measure
from shapes import SHAPES, Case


def arguments(description: str) -> argparse.ArgumentParser:
    """The options that all speed benchmarks share."""
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--shape", choices=SHAPES, default="llava-onevision-0.5b")
    parser.add_argument("--layers", type=int, help="fewer decoder layers, for small machines")
    parser.add_argument("--frames", default="32", help="of each video; several numbers separated by commas")
    parser.add_argument("--batch", default="1", help="prompts at once; several numbers separated by commas")
    parser.add_argument("--methods", default="adatp,keep_all,fastv,fastv_official", help=", ".join(NAMES))
    parser.add_argument("--flops", default="0.273,0.10", help="fractions of vanilla's prefill FLOPs")
    parser.add_argument("--repeats", type=int, default=5, help="rounds, behind one that warms up")
    parser.add_argument("--cold", dest="warm_up", action="store_false", help="no round that warms up")
    parser.add_argument(
        "--cpu-time",
        action="store_true",
        help="processor time instead of the clock's, for a machine that is shared; with --threads 1 alone, "
        "as threads that wait for each other burn it",
    )
    parser.add_argument("--vision", action="store_true", help="the vision tower in its real shape")
    parser.add_argument("--dtype", default="bfloat16")
    parser.add_argument("--attention", default="sdpa", help="as transformers calls it, or flash")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--threads", type=int, help="of torch, on a CPU")
    parser.add_argument("--no-memory", dest="memory", action="store_false", help="do not measure peak memory")
    parser.add_argument("--json", type=Path)
    return parser


def cases(options: argparse.Namespace) -> list[Case]:
    """Every number of frames with every batch."""
    shared = {
        name: getattr(options, name)
        for name in ("shape", "layers", "dtype", "device", "attention", "vision", "threads")
    }
    return [
        Case(frames=int(frames), batch=int(batch), **shared)
        for frames in options.frames.split(",")
        for batch in options.batch.split(",")
    ]


def run(options: argparse.Namespace, chosen: list[Case]) -> list[dict[str, Any]]:
    """Measure cases one after the other; rows are written as they come."""
    competing = entrants(options.methods.split(","), [float(f) for f in options.flops.split(",")])
    rows: list[dict[str, Any]] = []
    with Console(stderr=True).status("") as status:
        for case in chosen:
            rows += measure(
                case,
                competing,
                options.repeats,
                status.update,
                warm_up=options.warm_up,
                memory=options.memory,
                cpu_time=options.cpu_time,
            )
            if options.json:
                facts = {"machine": machine(), "command": shlex.join(["python", *sys.argv]), "rows": rows}
                options.json.write_text(json.dumps(facts, indent=1) + "\n")
    return rows


COLUMNS = {
    "prefill": ("prefill", "ms"),
    "relevance": ("relevance", "ms"),
    "overhead": ("overhead", "ms"),
    "vision": ("vision", "ms"),
    "ttft": ("first token", "ms"),
    "decode": ("a token", "ms"),
    "peak_memory": ("peak memory", "bytes"),
    "kv_cache": ("KV cache", "bytes"),
}


def label(row: dict[str, Any]) -> str:
    """A method with its target."""
    return str(row["method"]) if row["target"] is None else f"{row['method']} {100 * row['target']:g}%"


def show(rows: list[dict[str, Any]]) -> None:
    """One table: a line for each number, a column for each method; then who is not in it."""
    shown = [row for row in rows if "failed" not in row]
    table = Table("", *map(label, shown), box=None, padding=(0, 1))
    table.add_row("FLOPs", *(f"{row['flops_ratio']:.1%}" for row in shown))
    for name, (title, unit) in COLUMNS.items():
        if any(row.get(name) for row in shown):
            table.add_row(title, *(_cell(row, name, unit) for row in shown))
    table.add_row("efficiency", *(f"{row['efficiency']:.2f}" for row in shown))
    console = Console(width=max(100, 21 * (len(shown) + 1)))
    console.print(table)
    for row in rows:
        if "failed" in row:
            console.print(f"{label(row)}: {row['failed']}", highlight=False)


def _cell(row: dict[str, Any], name: str, unit: str) -> str:
    size = f"{row[name] / 2**20:,.0f} MiB" if unit == "bytes" else f"{row[name]:,.4g} ms"
    return f"{size} {row[f'{name}_ratio']:.1%}"


def main() -> None:
    options = arguments(__doc__).parse_args()
    if options.cpu_time and (options.threads != 1 or options.device != "cpu"):
        sys.exit("--cpu-time is for --device cpu with --threads 1")
    if unknown := {*options.methods.split(",")} - {*NAMES}:
        sys.exit(f"no method {', '.join(sorted(unknown))}; there are {', '.join(NAMES)}; vanilla always runs")
    chosen = cases(options)
    rows = run(options, chosen)
    console = Console()
    console.print(machine(), highlight=False)
    for case in chosen:
        same = [row for row in rows if (row["frames"], row["batch"]) == (case.frames, case.batch)]
        console.print(
            f"\n{case.shape}, {case.layers or 'all'} layers, {case.frames} frames, batch {case.batch}, "
            f"{case.dtype}, {case.attention}, vision tower {'real' if case.vision else 'a stand-in'}",
            highlight=False,
        )
        show(same)
    console.print("\nRatios are to vanilla, of relevance and overhead to vanilla's prefill.", style="dim")


if __name__ == "__main__":
    main()
