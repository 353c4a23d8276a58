"""Figures of an evaluation's rows."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import cycle
from typing import TYPE_CHECKING, Any

from adatp.plots.style import COLOURS, INK, MARKERS, MUTED, OURS

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Row = Mapping[str, Any]

_End = tuple[float, float, str]
"""End of a line, (x, y), and its name."""


def plot_accuracy(rows: Sequence[Row]) -> Figure:
    """Accuracy against real FLOPs: one line per method, one panel per number of frames and disturbance.

    Args:
        rows: rows of ``adatp.evaluation.summarise``.

    Returns:
        A figure; bars are 95 % intervals, and the band is vanilla's.
    """
    groups = _by(rows, _asked)
    figure, [panels] = _panels(1, max(1, len(groups)), width=5.6, height=4.6)
    styles = _styles(rows)
    for axes, (asked, chosen) in zip(panels, groups.items(), strict=False):
        lines = _by([row for row in chosen if row["flops_target"] is not None], _label)
        ends: list[_End] = []
        for label, line in lines.items():
            line = sorted(line, key=lambda row: row["flops_ratio"])
            colour, marker = styles[label]
            x, y = [100 * row["flops_ratio"] for row in line], [100 * row["accuracy"] for row in line]
            ours = label in ("adatp", "full")
            axes.errorbar(
                x,
                y,
                _errors(line),
                color=colour,
                marker=marker,
                markersize=6 if ours else 4.5,
                linewidth=2.4 if ours else 1.1,
                elinewidth=0.8 if ours else 0.4,
                zorder=3 if ours else 2,
            )
            ends.append((x[-1], y[-1], label))
        axes.set_xscale("log")
        ticks = sorted({100 * row["flops_target"] for line in lines.values() for row in line}) or [100.0]
        axes.set_xticks(ticks, [f"{tick:.3g} %" for tick in ticks])
        axes.minorticks_off()
        spent = [100 * row["flops_ratio"] for line in lines.values() for row in line] or [100.0]
        axes.set_xlim(min(spent) / 1.1, max(spent) * 1.05)
        for row in chosen:
            if row["flops_target"] is None:
                _draw_level(axes, row)
                ends.append((axes.get_xlim()[1], 100 * row["accuracy"], _label(row)))
        _label_ends(axes, ends, styles)
        axes.set_title(f"{_title(asked)}, {chosen[0]['n']} questions", loc="left", fontsize=10)
        axes.set_xlabel("real FLOPs of the decoder's prefill, of vanilla's")
    panels[0].set_ylabel("accuracy, %")
    return figure


def plot_thirds(rows: Sequence[Row]) -> Figure:
    """Accuracy by the part of the clip that holds the evidence.

    There is one row of panels per number of frames and disturbance, and one column per FLOPs target.

    Args:
        rows: rows of ``adatp.evaluation.summarise``.

    Returns:
        A figure; bars are 95 % intervals. Only questions whose evidence lies in one third count.
    """
    groups = _by(rows, _asked)
    targets = sorted({row["flops_target"] for row in rows} - {None}, reverse=True) or [None]
    figure, grid = _panels(max(1, len(groups)), len(targets), width=4.4, height=3.4)
    styles = _styles(rows)
    for panels, (asked, chosen) in zip(grid, groups.items(), strict=False):
        for axes, target in zip(panels, targets, strict=True):
            lines = [row for row in chosen if row["flops_target"] in (target, None) and row["by_third"]]
            places = list(dict.fromkeys(third for row in lines for third in row["by_third"]))
            ends: list[_End] = []
            for number, row in enumerate(lines):
                label = _label(row)
                colour, marker = styles[label]
                found = [row["by_third"][place] for place in places if place in row["by_third"]]
                shift = 0.3 * (number / max(1, len(lines) - 1) - 0.5)  # so that no bar hides another
                x = [index + shift for index, place in enumerate(places) if place in row["by_third"]]
                y = [100 * part["accuracy"] for part in found]
                flat = row["flops_target"] is None
                axes.errorbar(
                    x,
                    y,
                    _errors(found),
                    color=colour,
                    marker=marker,
                    markersize=4.5,
                    linewidth=2.2 if label in ("adatp", "full") else 1.1,
                    linestyle=":" if flat and label != "vanilla" else "-",
                    elinewidth=0.4,
                )
                ends.append((x[-1], y[-1], label))
            axes.set_xticks(range(len(places)), places)
            axes.set_xlim(-0.4, len(places) - 0.6)
            _label_ends(axes, ends, styles)
            spent = "" if target is None else f", {100 * target:.3g} % of FLOPs"
            axes.set_title(f"{_title(asked)}{spent}", loc="left", fontsize=10)
        panels[0].set_ylabel("accuracy, %")
    return figure


def plot_differences(rows: Sequence[Row]) -> Figure:
    """Gain or loss of each variant against the full method, one panel per length and FLOPs target.

    Args:
        rows: rows of ablations from ``adatp.evaluation.summarise``.

    Returns:
        A figure; bars are 95 % intervals of the paired difference.
    """
    groups = _by(rows, lambda row: (_asked(row), row["flops_target"]))
    variants = list(dict.fromkeys(_label(row) for row in rows if row["delta"] is not None))
    figure, [panels] = _panels(1, max(1, len(groups)), width=4.6, height=1 + 0.26 * len(variants))
    for axes, ((asked, target), chosen) in zip(panels, groups.items(), strict=False):
        full = next((row for row in chosen if row["delta"] is None), None)
        compared = [row for row in chosen if row["delta"] is not None]
        gains = [100 * row["delta"] for row in compared]
        sides = [
            [100 * (row["delta"] - row["delta_low"]) for row in compared],
            [100 * (row["delta_high"] - row["delta"]) for row in compared],
        ]
        places = [variants.index(_label(row)) for row in compared]
        axes.errorbar(gains, places, xerr=sides, fmt="o", color=COLOURS[0], markersize=5, elinewidth=1.2)
        axes.axvline(0, color=OURS, linewidth=1.4)
        axes.set_yticks(range(len(variants)), variants)
        axes.set_ylim(len(variants) - 0.5, -0.5)
        reached = "" if full is None else f": full {full['accuracy']:.1%}"
        axes.set_title(f"{_title(asked)}, {100 * target:.3g} % of FLOPs{reached}", loc="left", fontsize=10)
        axes.set_xlabel("difference in accuracy, points")
    return figure


def _panels(rows: int, columns: int, width: float, height: float) -> tuple[Figure, list[list[Axes]]]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width * columns, height * rows), layout="constrained")
    grid = figure.subplots(rows, columns, squeeze=False, sharey="row")
    for axes in grid.flat:
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(axis="y", color="#dddddd", linewidth=0.6)
        axes.set_axisbelow(True)
        axes.tick_params(labelsize=8)
    return figure, grid.tolist()


def _by(rows: Sequence[Row], key: Callable[[Row], Any]) -> dict[Any, list[Row]]:
    """Rows in groups, in the order of each group's first row."""
    groups: dict[Any, list[Row]] = {}
    for row in rows:
        groups.setdefault(key(row), []).append(row)
    return groups


def _asked(row: Row) -> tuple[int, str]:
    """The clips of a row's questions: number of frames, and the disturbance or none."""
    return row["frames"], row.get("disturbance", "")


def _title(asked: tuple[int, str]) -> str:
    frames, disturbance = asked
    return f"{frames} frames, {disturbance}" if disturbance else f"{frames} frames"


def _label(row: Row) -> str:
    return str(row.get("variant", row["method"]))


def _styles(rows: Sequence[Row]) -> dict[str, tuple[str, str]]:
    """Colour and marker of each line, the same in every panel."""
    labels = dict.fromkeys(map(_label, rows))
    colours, markers = cycle(COLOURS), cycle(MARKERS)
    fixed = {"vanilla": (INK, "_"), "blind": (MUTED, "x"), "single_frame": (MUTED, "+")}
    fixed |= dict.fromkeys(("adatp", "full"), (OURS, "o"))
    return {label: fixed.get(label) or (next(colours), next(markers)) for label in labels}


def _errors(parts: Sequence[Row]) -> list[list[float]]:
    """Lengths of the error bars below and above, in %."""
    below = [100 * (part["accuracy"] - part["ci_low"]) for part in parts]
    return [below, [100 * (part["ci_high"] - part["accuracy"]) for part in parts]]


def _draw_level(axes: Axes, row: Row) -> None:
    vanilla = _label(row) == "vanilla"
    axes.axhline(
        100 * row["accuracy"],
        color=INK if vanilla else MUTED,
        linewidth=1.2 if vanilla else 0.9,
        linestyle="-" if vanilla else ":",
        zorder=1,
    )
    if vanilla:
        axes.axhspan(100 * row["ci_low"], 100 * row["ci_high"], color=INK, alpha=0.07, linewidth=0)


def _label_ends(axes: Axes, ends: Sequence[_End], styles: Mapping[str, tuple[str, str]]) -> None:
    """Write names next to the panel at the heights of their lines' ends, moved apart where they overlap."""
    low, high = axes.get_ylim()
    beside = axes.get_yaxis_transform()  # x in panels, y in data
    heights = spread([y for _, y, _ in ends], (high - low) * 0.042)
    for height, (x, y, label) in zip(heights, ends, strict=True):
        colour, marker = styles[label]
        leader = {
            "arrowstyle": "-",
            "color": colour,
            "linewidth": 0.5,
            "alpha": 0.6,
            "shrinkA": 0,
            "shrinkB": 0,
        }
        axes.annotate("", (x, y), (1.05, height), textcoords=beside, arrowprops=leader, annotation_clip=False)
        axes.plot(1.07, height, marker, color=colour, markersize=4.5, transform=beside, clip_on=False)
        axes.text(1.1, height, label.replace("_", " "), color=colour, size=8, va="center", transform=beside)


def spread(heights: Sequence[float], step: float) -> list[float]:
    """Move heights apart until neighbours are at least ``step`` apart, in their order.

    Each height moves as little as possible: a cluster is centred on its mean.

    Args:
        heights: (n,), in any order.
        step: least distance.

    Returns:
        (n,), in the same order.
    """
    order = sorted(range(len(heights)), key=lambda i: heights[i])
    clusters: list[tuple[float, int]] = []  # mean height, members
    for i in order:
        mean, size = heights[i], 1
        while clusters and mean - clusters[-1][0] < step * (size + clusters[-1][1]) / 2:
            before, members = clusters.pop()
            mean, size = (mean * size + before * members) / (size + members), size + members
        clusters.append((mean, size))
    placed = [mean + step * (k - (size - 1) / 2) for mean, size in clusters for k in range(size)]
    return [height for _, height in sorted(zip(order, placed, strict=True))]
