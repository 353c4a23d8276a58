"""Writes the results of `make results` into the README, between its two marks.

Run: python benchmarks/readme_table.py [--results docs/results] [--readme README.md]
"""

from __future__ import annotations

import argparse
import json
import re
from pathlib import Path
from typing import Any

MARKS = "<!-- results -->", "<!-- /results -->"


def table(rows: list[dict[str, Any]]) -> str:
    """Accuracy in percent, a row a method, a column for each length and FLOPs target; sorted by the last."""
    columns = sorted({(r["frames"], -r["flops_target"]) for r in rows if r["flops_target"]})
    columns = [(frames, -target) for frames, target in columns]
    found = {(r["method"], r["frames"], r["flops_target"]): r for r in rows}
    untargeted = [
        name for name in ("vanilla", "single_frame", "blind") if (name, columns[0][0], None) in found
    ]
    methods = list(dict.fromkeys(r["method"] for r in rows if r["flops_target"]))

    def cell(method: str, frames: int, target: float | None) -> str:
        row = found.get((method, frames, target))
        return "–" if row is None else f"{100 * row['accuracy']:.1f}"

    def mean(method: str) -> float:
        return sum(found[method, f, t]["accuracy"] for f, t in columns if (method, f, t) in found) / len(
            columns
        )

    head = ["method", *(f"{frames} frames, {100 * target:g} %" for frames, target in columns)]
    lines = [[name, *(cell(name, frames, None) for frames, _ in columns)] for name in untargeted[:1]]
    lines += [[m, *(cell(m, *column) for column in columns)] for m in sorted(methods, key=mean, reverse=True)]
    lines += [[name, *(cell(name, frames, None) for frames, _ in columns)] for name in untargeted[1:]]
    return "\n".join(f"| {' | '.join(line)} |" for line in [head, ["---"] * len(head), *lines])


def claim(rows: list[dict[str, Any]]) -> str:
    """Vanilla and AdaTP over all questions, as a table with intervals and the paired difference."""
    lines = [["", "questions", "FLOPs", "accuracy, %", "minus vanilla, points", "answers that change", "p"]]
    lines.append(["---"] * len(lines[0]))
    for r in rows:
        paired = ["", "", ""]
        if r["delta"] is not None:
            low, high = (f"{100 * r[key]:+.2f}" for key in ("delta_low", "delta_high"))
            paired = [
                f"{100 * r['delta']:+.2f} [{low}, {high}]",
                f"{r['changed']:.1%}",
                f"{r['p_value']:.2g}",
            ]
        accuracy = f"{100 * r['accuracy']:.2f} [{100 * r['ci_low']:.2f}, {100 * r['ci_high']:.2f}]"
        name = f"{r['method']}, {r['frames']} frames"
        lines.append([name, f"{r['n']:,}", f"{r['flops_ratio']:.1%}", accuracy, *paired])
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def section(results: Path) -> str:
    """What stands between the marks."""
    claimed, compared = (
        json.loads((results / f"{name}.json").read_text())["rows"] for name in ("claim", "eval")
    )
    asked = f"{compared[0]['n']} questions a column, accuracy in percent:"
    return "\n" + "\n\n".join([claim(claimed), asked, table(compared)]) + "\n\n"


def main() -> None:
    """Rewrite the README's section."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--results", type=Path, default=Path("docs/results"))
    parser.add_argument("--readme", type=Path, default=Path("README.md"))
    args = parser.parse_args()
    text = args.readme.read_text()
    between = re.compile(f"(?<={re.escape(MARKS[0])}\n).*(?={re.escape(MARKS[1])})", re.DOTALL)
    args.readme.write_text(between.sub(lambda _: section(args.results), text))


if __name__ == "__main__":
    main()
