"""How time and memory grow with frames and with the prompts of a batch, as tables and a figure.

Every number of frames alone, then every batch at one number of frames (`--batch-frames`); all else as in
prefill.py.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter, StrMethodFormatter
from rich.console import Console

from adatp.plots.style import COLOURS, INK, MARKERS, OURS
from measure import machine
from prefill import arguments, cases, label, run, show

PANELS = {
    "prefill": ("prefill, s", 1e-3),
    "ttft": ("time to first token, s", 1e-3),
    "decode": ("decode, ms a token", 1.0),
    "peak_memory": ("peak memory, GiB", 2.0**-30),
}


def plot(rows: list[dict[str, Any]], batch_frames: int) -> Figure:
    """A line for each method; above over frames at batch 1, below over the batch."""
    rows = [row for row in rows if "failed" not in row]
    panels = {name: panel for name, panel in PANELS.items() if any(name in row for row in rows)}
    over = {
        "frames": [row for row in rows if row["batch"] == 1],
        "batch": [row for row in rows if row["frames"] == batch_frames],
    }
    over = {axis: chosen for axis, chosen in over.items() if len({row[axis] for row in chosen}) > 1}
    names = list(dict.fromkeys(label(row) for row in rows))
    ours = [name for name in names if name.startswith("adatp")]
    peers = [name for name in names if name not in ours and name != "vanilla"]
    style = {"vanilla": (INK, "-")}
    style |= {name: (OURS, ("-", "--", ":", "-.")[i % 4]) for i, name in enumerate(ours)}
    style |= {name: (COLOURS[i % len(COLOURS)], "-") for i, name in enumerate(peers)}
    figure = Figure(figsize=(3.4 * len(panels), 3.0 * len(over)), layout="constrained")
    grid = figure.subplots(len(over), len(panels), squeeze=False)
    for line, (axis, chosen) in zip(grid, over.items(), strict=True):
        for ax, (name, (title, unit)) in zip(line, panels.items(), strict=True):
            for number, method in enumerate(names):
                points = sorted((row[axis], unit * row[name]) for row in chosen if label(row) == method)
                colour, dash = style[method]
                marker = MARKERS[number % len(MARKERS)]
                x, y = [point[0] for point in points], [point[1] for point in points]
                ax.plot(x, y, color=colour, linestyle=dash, marker=marker, markersize=4, label=method)
            ticks = sorted({row[axis] for row in chosen})
            ax.set_xscale("log", base=2)
            ax.set_xticks(ticks, [str(tick) for tick in ticks])
            if name == "decode":  # which hardly grows
                ax.set_ylim(bottom=0)
            else:
                ax.set_yscale("log")
                ax.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
                ax.yaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
                ax.yaxis.set_minor_formatter(NullFormatter())
            ax.set_xlabel(axis if axis == "frames" else f"batch, {batch_frames} frames each")
            ax.set_title(title, fontsize=10)
            ax.spines[["top", "right"]].set_visible(False)
            ax.grid(alpha=0.25)
    figure.legend(*grid[0, 0].get_legend_handles_labels(), loc="outside lower center", ncols=4, frameon=False)
    return figure


def main() -> None:
    parser = arguments(__doc__)
    parser.set_defaults(
        frames="8,16,32,64,128,256", batch="1,2,4,8", methods="adatp,fastv,fastv_official", repeats=3
    )
    parser.add_argument("--batch-frames", type=int, default=32)
    parser.add_argument("--plot", type=Path, help="the figure")
    options = parser.parse_args()
    every = cases(options)
    chosen = [case for case in every if case.batch == 1]
    chosen += [case for case in every if case.batch > 1 and case.frames == options.batch_frames]
    if not chosen:
        sys.exit("nothing to run: --batch needs a 1, or --frames what --batch-frames says")
    rows = run(options, chosen)
    console = Console()
    console.print(machine(), highlight=False)
    for case in chosen:
        console.print(f"\n{case.shape}, {case.frames} frames, batch {case.batch}", highlight=False)
        show([row for row in rows if (row["frames"], row["batch"]) == (case.frames, case.batch)])
    if options.plot:
        plot(rows, options.batch_frames).savefig(options.plot, dpi=160)


if __name__ == "__main__":
    main()
