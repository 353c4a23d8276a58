"""Draws the figure of the two biases from the measured numbers.

Run: python docs/_site/figures.py (needs matplotlib)
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt

DOCS = Path(__file__).parents[1]
BEFORE, AFTER = "#c2410c", "#4338ca"


def layer(name: str, number: int) -> dict[str, Any]:
    """What was measured of one layer of a model."""
    found: dict[str, Any] = json.loads((DOCS / "results" / f"bias-{name}.json").read_text())["layers"][number]
    return found


def main() -> None:
    """Write ``docs/figures/biases.png``."""
    figure = plt.figure(figsize=(10, 3.9), layout="constrained")
    left, right = figure.subfigures(1, 2, width_ratios=[1.15, 1])
    by_frame(left, layer("smollm2", 1))
    by_position(right, layer("embedded", 0))
    figure.savefig(DOCS / "figures" / "biases.png", dpi=150)


def by_frame(figure: Any, measured: dict[str, Any]) -> None:
    """Global bias: the share of the top-10 % tokens that lies in each frame."""
    figure.suptitle("Global bias: which frames the chosen tokens come from", fontsize=10, weight="bold")
    axes = figure.subplots()
    shares = [100 * share for share in measured["top10_by_frame"]]
    after = [100 * share for share in measured["debiased"]["top10_by_frame"]]
    frames = range(1, len(shares) + 1)
    axes.bar(frames, shares, color=BEFORE, alpha=0.85, width=0.9, label="by attention alone")
    axes.step(frames, after, where="mid", color=AFTER, linewidth=2, label="by AdaTP's rules")
    even = 100 / len(shares)
    axes.axhline(even, color="gray", linewidth=1, linestyle=":")
    axes.text(1, even + 0.6, "even", color="gray", fontsize=8)
    axes.set_xlabel("frame")
    axes.set_ylabel("share of the top-10 % tokens, %")
    axes.legend(frameon=False, loc="upper left", bbox_to_anchor=(0, 0.92))
    axes.spines[["top", "right"]].set_visible(False)


def by_position(figure: Any, measured: dict[str, Any]) -> None:
    """Local bias: how often each cell of the grid is among the top-10 %, against the mean cell."""
    figure.suptitle("Local bias: which cells of the frame they come from", fontsize=10, weight="bold")
    maps = measured["top10_by_position"], measured["debiased"]["top10_by_position"]
    top = max(max(row) for row in maps[0])
    titles = "by attention alone", "by AdaTP's rules"
    for axes, values, title in zip(figure.subplots(1, 2), maps, titles, strict=True):
        image = axes.imshow(values, cmap="Oranges", vmin=0, vmax=top)
        axes.set_title(title, fontsize=9)
        axes.set_xticks([])
        axes.set_yticks([])
        for y, row in enumerate(values):
            for x, value in enumerate(row):
                color = "white" if value > 0.6 * top else "black"
                axes.text(x, y, f"{value:.1f}", ha="center", va="center", fontsize=7, color=color)
    figure.colorbar(image, ax=figure.axes, shrink=0.6, label="times the mean cell")


if __name__ == "__main__":
    main()
