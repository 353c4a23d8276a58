"""The tables of world 2, from the JSON files of proof.py into docs/proof.md, each between its two marks."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from adatp.evaluation import Entrant, Results
from adatp.evaluation.statistics import holm
from adatp.evaluation.summary import summarise_run
from adatp.plots import plot_accuracy
from result_tables import ROOT, by_method, claim, name_of, table, written

RESULTS = ROOT / "docs" / "results" / "scenes"
PAGE = ROOT / "docs" / "proof.md"
FIGURE = ROOT / "docs" / "figures" / "scenes-accuracy.png"
README = ROOT / "README.md"

OURS = "adatp"
NOT_YET = "*Not measured yet.*"


def against(results: Results, who: Sequence[Entrant], frames: Sequence[int]) -> list[dict[str, Any]]:
    """AdaTP minus each other method, question by question, at the same target, length and disturbance.

    Returns:
        ``other``, ``flops_target``, ``frames``, ``disturbance``, and of `summarise_run` what is paired.
    """
    own = {
        (each.target, str(each.disturbance)): each.key
        for each in who
        if each.label in (OURS, "full") and each.target is not None
    }
    found = []
    for each in who:
        ours = own.get((each.target, str(each.disturbance)))
        if ours is None or ours == each.key:
            continue
        for length in frames:
            mine, theirs = (
                results.answers.get((ours, length), {}),
                results.answers.get((each.key, length), {}),
            )
            both = mine.keys() & theirs.keys()
            if not both:
                continue
            row = summarise_run(
                {n: mine[n] for n in both}, results.questions[length], {n: theirs[n] for n in both}
            )
            kept = ("n", "delta", "delta_low", "delta_high", "changed", "p_value")
            named = {"other": each.label, "flops_target": each.target, "frames": length}
            found.append({**named, "disturbance": str(each.disturbance), **{key: row[key] for key in kept}})
    return found


def lines_of(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table of Markdown."""
    return "\n".join(f"| {' | '.join(row)} |" for row in [head, ["---"] * len(head), *rows])


def percent(part: dict[str, Any]) -> str:
    """An accuracy with its interval."""
    return f"{100 * part['accuracy']:.1f} [{100 * part['ci_low']:.1f}, {100 * part['ci_high']:.1f}]"


def points(row: dict[str, Any]) -> str:
    """A paired difference with its interval."""
    if row["delta"] is None:
        return ""
    return f"{100 * row['delta']:+.1f} [{100 * row['delta_low']:+.1f}, {100 * row['delta_high']:+.1f}]"


def accuracy(rows: list[dict[str, Any]]) -> str:
    """Accuracy with intervals: a row a method and length, a column a target."""
    targets = sorted({row["flops_target"] for row in rows} - {None}, reverse=True)
    found = {(name_of(row), row["frames"], row["flops_target"]): row for row in rows}
    lines = []
    for name, frames in dict.fromkeys((name_of(row), row["frames"]) for row in rows):
        every = found.get((name, frames, None))
        cells = [found.get((name, frames, target), every) for target in targets]
        lines.append([name, str(frames), *("–" if cell is None else percent(cell) for cell in cells)])
    lines.sort(key=lambda line: int(line[1]))
    return lines_of(["method", "frames", *(f"{100 * target:g} %" for target in targets)], lines)


def best(data: dict[str, Any]) -> str:
    """The comparison with the best peers, and AdaTP minus each of them."""
    pairs = data["against_adatp"]
    rows = [
        [
            row["other"],
            str(row["frames"]),
            f"{100 * row['flops_target']:g} %",
            f"{row['n']:,}",
            points(row),
            f"{row['p_value']:.2g}",
            f"{corrected:.2g}",
        ]
        for row, corrected in zip(pairs, holm([row["p_value"] for row in pairs]), strict=True)
    ]
    head = ["AdaTP minus", "frames", "FLOPs", "questions", "points", "p", "p, corrected"]
    return f"{accuracy(data['rows'])}\n\n{lines_of(head, rows)}"


def in_short(data: dict[str, Any]) -> str:
    """The comparison with the best peers for the README: without intervals, the best at 10 % first."""
    targets = sorted({row["flops_target"] for row in data["rows"]} - {None}, reverse=True)
    found: dict[str, dict[float | None, float]] = {}
    for row in data["rows"]:
        found.setdefault(name_of(row), {})[row["flops_target"]] = 100 * row["accuracy"]
    lines = []
    for name, cells in sorted(found.items(), key=lambda each: -each[1].get(0.1, each[1].get(None, 0.0))):
        right = [cells.get(target, cells.get(None)) for target in targets]
        lines.append([name, *("–" if value is None else f"{value:.1f}" for value in right)])
    return lines_of(["method", *(f"{100 * target:g} %" for target in targets)], lines)


def split_by(rows: list[dict[str, Any]], by: str, target: float) -> str:
    """Accuracy by type or by third at one target, over all lengths side by side."""
    chosen = [row for row in rows if row["flops_target"] in (target, None)]
    columns = list(dict.fromkeys(name for row in chosen for name in row[by]))
    lines = [
        [
            name_of(row),
            str(row["frames"]),
            *(f"{100 * row[by][c]['accuracy']:.0f}" if c in row[by] else "–" for c in columns),
        ]
        for row in chosen
    ]
    return lines_of(["method", "frames", *columns], lines)


def splits(data: dict[str, Any]) -> str:
    """By type and by third at 10 %."""
    return "\n\n".join(split_by(data["rows"], by, 0.1) for by in ("by_type", "by_third"))


def ablated(data: dict[str, Any]) -> str:
    """Each variant minus the full method, with p values corrected for the number of variants."""
    rows = [row for row in data["rows"] if row["delta"] is not None]
    corrected = holm([row["p_value"] for row in rows])
    lines = [
        [
            name_of(row),
            f"{100 * row['flops_target']:g} %",
            percent(row),
            points(row),
            f"{row['p_value']:.2g}",
            f"{p:.2g}",
        ]
        for row, p in zip(rows, corrected, strict=True)
    ]
    full = [
        ["**full**", f"{100 * row['flops_target']:g} %", percent(row), "", "", ""]
        for row in data["rows"]
        if name_of(row) == "full"
    ]
    return lines_of(
        ["variant", "FLOPs", "accuracy, %", "minus full, points", "p", "p, corrected"], [*full, *lines]
    )


def under(data: dict[str, Any]) -> str:
    """A row a method and target, a column a disturbance; first how good relevance is, where that is known."""
    kinds = list(dict.fromkeys(row.get("disturbance", "none") for row in data["rows"]))
    found = {(name_of(row), row["flops_target"], row.get("disturbance", "none")): row for row in data["rows"]}
    lines = []
    if "auc" in data:
        lines.append(["AUC of relevance", "", *(f"{data['auc'][kind]:.3f}" for kind in kinds)])
    for name, target in dict.fromkeys((name_of(row), row["flops_target"]) for row in data["rows"]):
        cells = [found.get((name, target, kind)) for kind in kinds]
        shown = "" if target is None else f"{100 * target:g} %"
        lines.append([name, shown, *("–" if cell is None else percent(cell) for cell in cells)])
    return lines_of(["method", "FLOPs", *kinds], lines)


def minus(data: dict[str, Any], by: str) -> str:
    """AdaTP minus each other method: a row a method and target, a column a value of `by`."""
    pairs = data["against_adatp"]
    columns = list(dict.fromkeys(row[by] for row in pairs))
    found = {(row["other"], row["flops_target"], row[by]): row for row in pairs}
    lines = []
    for other, target in dict.fromkeys((row["other"], row["flops_target"]) for row in pairs):
        cells = [found.get((other, target, column)) for column in columns]
        shown = ("–" if cell is None else points(cell) for cell in cells)
        lines.append([other, f"{100 * target:g} %", *shown])
    named = (f"{column} frames" if by == "frames" else column for column in columns)
    return lines_of(["AdaTP minus", "FLOPs", *named], lines)


def by_length(data: dict[str, Any]) -> str:
    """Accuracy, and AdaTP minus each other method, for each length of the clips."""
    return f"{accuracy(data['rows'])}\n\n{minus(data, 'frames')}"


def tuned(data: dict[str, Any]) -> str:
    """What each method's parameters became, and what that is worth on `validation`."""
    rows = []
    for name, found in data["methods"].items():
        if found["accuracy"] is None:
            continue
        changed = ", ".join(f"`{key}` = {value}" for key, value in found["settings"].items()) or "defaults"
        before, after = (f"{100 * found[key]:.1f}" for key in ("default_accuracy", "accuracy"))
        rows.append([name, changed, before, after, str(len(found["tried"]))])
    return lines_of(["method", "tuned", "defaults, %", "tuned, %", "candidates"], rows)


SECTIONS = {
    "tune": ("tune", tuned),
    "claim": ("claim", lambda data: claim(by_method(data["rows"]))),
    "best": ("best", best),
    "compare": ("compare", lambda data: table(by_method(data["rows"]))),
    "splits": ("best", splits),
    "lengths": ("lengths", by_length),
    "modules": ("modules", ablated),
    "modules-paper": ("modules-paper", ablated),
    "ablations": ("ablations", ablated),
    "ablations-paper": ("ablations-paper", ablated),
    "disturbances": ("disturbances", lambda data: f"{under(data)}\n\n{minus(data, 'disturbance')}"),
    "relevance": ("relevance", under),
    "shifted": ("shifted", by_length),
}
"""Mark in the page -> the file whose data it shows, and how."""


COUNTED = ("claim", "best", "splits", "tune")
"""Sections whose table or text says itself how many questions it has."""


def section(mark: str, folder: Path) -> str:
    """A section as it stands in the page."""
    name, make = SECTIONS[mark]
    file = folder / f"{name}.json"
    if not file.exists():
        return NOT_YET
    data = json.loads(file.read_text())
    if mark in COUNTED:
        return make(data)
    return f"{data['limit']} questions a cell.\n\n{make(data)}"


def write(folder: Path = RESULTS, page: Path = PAGE, figure: Path = FIGURE, readme: Path = README) -> None:
    """Renew every section of the page, and, if there are numbers, the figure and the README's table."""
    text = page.read_text()
    for mark in SECTIONS:
        text = written(text, mark, section(mark, folder))
    page.write_text(text)
    file = folder / "best.json"
    if file.exists():
        readme.write_text(written(readme.read_text(), "proof", in_short(json.loads(file.read_text()))))
        plot_accuracy(json.loads(file.read_text())["rows"]).savefig(figure, dpi=150)


if __name__ == "__main__":
    write()
