"""Figures of attention bias, from the results of ``adatp.bias.measure``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from adatp.plots.style import COLOURS, INK, MUTED, OURS, evenly_spaced

if TYPE_CHECKING:
    from matplotlib.figure import Figure

HEAT = "cividis"
"""A colour map that colour-blind readers can read, also in print."""

_MOST_MAPS, _MOST_LINES = 6, 12


def plot_bias(found: Mapping[str, Any]) -> dict[str, Figure]:
    """All figures for which the measurement has numbers.

    Args:
        found: result of ``adatp.bias.measure``.

    Returns:
        Figures by name: ``frames``; ``positions`` unless clips differed in format; ``controls`` if there
        were any.
    """
    figures = {"frames": plot_frames(found)}
    if found["layers"][0]["mass_by_position"] is not None:
        figures["positions"] = plot_positions(found)
    if found["controls"]:
        figures["controls"] = plot_controls(found)
    return figures


def plot_frames(found: Mapping[str, Any]) -> Figure:
    """Top-10 % tokens by frame and layer: by attention, and by AdaTP's rules on the same attention.

    Args:
        found: result of ``adatp.bias.measure``.
    """
    from matplotlib.figure import Figure

    layers, frames = found["layers"], found["frames"]
    figure = Figure(figsize=(10, 1.3 + 0.21 * max(6, len(layers))), layout="constrained")
    panels = figure.subplots(1, 2, sharey=True)
    shares = [
        [[frames * share for share in row["top10_by_frame"]] for row in rows]
        for rows in (layers, [row["debiased"] for row in layers])
    ]
    most = max(max(map(max, share)) for share in shares)
    for axes, share, title in zip(panels, shares, ("by attention", "by AdaTP's rules"), strict=True):
        image = axes.imshow(share, aspect="auto", cmap=HEAT, vmin=0, vmax=most, interpolation="nearest")
        axes.set_title(f"top-10 % tokens {title}", loc="left", fontsize=10)
        axes.set_xlabel("frame")
        _integer_ticks(axes.set_xticks, frames, first=1)
    panels[0].set_ylabel("layer")
    _integer_ticks(panels[0].set_yticks, len(layers), names=[row["layer"] for row in layers])
    figure.colorbar(image, ax=panels, label="share, 1 = every frame has its even share", pad=0.01)
    return figure


def plot_positions(found: Mapping[str, Any]) -> Figure:
    """On the token grid, over frames: attention, and the top-10 % tokens by attention and by AdaTP's rules.

    Args:
        found: result of ``adatp.bias.measure``.
    """
    from matplotlib.figure import Figure

    chosen = [found["layers"][i] for i in evenly_spaced(len(found["layers"]), _MOST_MAPS)]
    maps = [
        [row["mass_by_position"] for row in chosen],
        [row["top10_by_position"] for row in chosen],
        [row["debiased"]["top10_by_position"] for row in chosen],
    ]
    names = ("attention", "top-10 % tokens,\nby attention", "top-10 % tokens,\nby AdaTP's rules")
    figure = Figure(figsize=(1.2 + 1.55 * len(chosen), 5.4), layout="constrained")
    grid = figure.subplots(3, len(chosen), squeeze=False)
    highest = [max(_peak(one) for one in row) for row in maps]
    highest[1:] = [max(highest[1:])] * 2  # two choices of equally many tokens: on one scale
    for row, (panels, name) in enumerate(zip(grid, names, strict=True)):
        for axes, values, layer in zip(panels, maps[row], chosen, strict=True):
            image = axes.imshow(values, cmap=HEAT, vmin=0, vmax=highest[row], interpolation="nearest")
            axes.set_xticks([])
            axes.set_yticks([])
            axes.set_xlabel(f"peak {_peak(values):.1f}", fontsize=8, labelpad=2)
            if row == 0:
                axes.set_title(f"layer {layer['layer']}", fontsize=10)
        panels[0].set_ylabel(name, fontsize=9)
        figure.colorbar(image, ax=list(panels), label="1 = mean position", pad=0.01, shrink=0.9)
    return figure


def plot_controls(found: Mapping[str, Any]) -> Figure:
    """Attention by frame under every condition, one panel per layer. What all share is due to position.

    Args:
        found: result of ``adatp.bias.measure``.
    """
    from matplotlib.figure import Figure

    frames = found["frames"]
    chosen = evenly_spaced(len(found["layers"]), _MOST_LINES)
    columns = min(4, len(chosen))
    rows = -(-len(chosen) // columns)
    figure = Figure(figsize=(2.6 * columns + 0.6, 1.9 * rows + 0.6), layout="constrained")
    grid = figure.subplots(rows, columns, squeeze=False, sharex=True, sharey=True)
    conditions = {"original": found["layers"], **found["controls"]}
    styles = {
        "original": {"color": OURS, "linewidth": 2.2},
        "shuffled": {"color": COLOURS[0], "linewidth": 1.4},
        "identical": {"color": COLOURS[1], "linewidth": 1.4, "linestyle": "--"},
        "black": {"color": INK, "linewidth": 1.4, "linestyle": ":"},
    }
    x = range(1, frames + 1)
    for axes, number in zip(grid.flat, chosen, strict=False):
        for name, by_layer in conditions.items():
            axes.plot(
                x, [frames * share for share in by_layer[number]["mass_by_frame"]], label=name, **styles[name]
            )
        axes.axhline(1, color=MUTED, linewidth=0.6)
        axes.set_title(f"layer {found['layers'][number]['layer']}", loc="left", fontsize=9)
        axes.spines[["top", "right"]].set_visible(False)
    for axes in grid.flat[len(chosen) :]:
        axes.set_visible(False)
    grid[0, 0].set_ylim(bottom=0)  # shared, so only once all lines are drawn
    figure.supxlabel("frame", fontsize=9)
    figure.supylabel("attention on the frame, 1 = every frame has its even share", fontsize=9)
    handles, labels = grid.flat[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=len(labels), frameon=False, fontsize=9)
    return figure


def _peak(values: Sequence[Sequence[float]]) -> float:
    return max(map(max, values))


def _integer_ticks(set_ticks: Any, count: int, *, first: int = 0, names: Sequence[int] | None = None) -> None:
    """Set few enough labels to read, numbered from ``first`` or by ``names``."""
    step = max(1, -(-count // 16))
    places = list(range(0, count, step))
    set_ticks(places, [str(place + first if names is None else names[place]) for place in places], fontsize=8)
