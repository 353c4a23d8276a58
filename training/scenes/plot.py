"""Draw the curves of a run: ``python -m training.scenes.plot runs/scenes curves.png`` (needs matplotlib)."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from adatp.scenes import QUESTION_TYPES


def read(log: Path) -> list[dict[str, Any]]:
    """The records of a log."""
    return [json.loads(line) for line in log.read_text().splitlines()]


def main() -> None:
    """Draw vision scores, decoder scores in training, and validation, each over minutes of training."""
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot

    folder, image = Path(sys.argv[1]), Path(sys.argv[2])
    records = read(folder / "log.jsonl")
    figure, axes = pyplot.subplots(3, 1, figsize=(9, 12), constrained_layout=True)
    panels = (
        ("vision: training stream", "vision", "train"),
        ("decoder: training stream", "decoder", "train"),
        ("decoder: validation", "decoder", "validation"),
    )
    for axis, (title, stage, part) in zip(axes, panels, strict=True):
        chosen = [record for record in records if record["stage"] == stage and part in record]
        names = {name for record in chosen for name in record[part]}
        for name in sorted(names & {*QUESTION_TYPES, "all"} if stage == "decoder" else names):
            points = [(r["minutes"][stage], r[part][name]) for r in chosen if name in r[part]]
            axis.plot(*zip(*points, strict=True), label=name, linewidth=2.5 if name == "all" else 1)
        frames = [record["frames"] for record in chosen]
        for i in range(1, len(chosen)):
            if stage == "decoder" and frames[i] != frames[i - 1]:
                axis.axvline(chosen[i]["minutes"][stage], color="0.85")
        axis.set(title=title, xlabel="minutes", ylabel="accuracy", ylim=(0, 1.02))
        if chosen:
            axis.legend(fontsize=7, ncols=2, loc="lower right")
    figure.savefig(image, dpi=110)


if __name__ == "__main__":
    main()
