"""Writes the measured tables into the documentation, each between its two marks.

Run: python benchmarks/result_tables.py, after `make results` or `make bias`
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
RESULTS = ROOT / "docs" / "results"


def name_of(row: dict[str, Any]) -> str:
    """Who a row is of."""
    return str(row.get("variant", row["method"]))


def by_method(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Rows whose method is what tables call it."""
    return [{**row, "method": name_of(row)} for row in rows]


def table(rows: list[dict[str, Any]]) -> str:
    """Accuracy in percent, a row a method, a column for each length and FLOPs target.

    Methods are sorted by their sum over the columns. What a method can't reach adds nothing.
    """
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

    def total(method: str) -> float:
        return sum(found[method, f, t]["accuracy"] for f, t in columns if (method, f, t) in found)

    head = ["method", *(f"{frames} frames, {100 * target:g} %" for frames, target in columns)]
    lines = [[name, *(cell(name, frames, None) for frames, _ in columns)] for name in untargeted[:1]]
    lines += [
        [m, *(cell(m, *column) for column in columns)] for m in sorted(methods, key=total, reverse=True)
    ]
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


def accuracy() -> str:
    """The claim, and the comparison of methods."""
    claimed, compared = _read("claim")["rows"], _read("eval")["rows"]
    asked = f"{compared[0]['n']} questions a column, accuracy in percent:"
    return "\n\n".join([claim(claimed), asked, table(by_method(compared))])


def bias(name: str) -> str:
    """The two statistics by layer with and without debiasing, and the controls."""
    found = _read(name)
    end = max(1, found["frames"] // 8)
    controls = found["controls"]

    def at_end(row: dict[str, Any], last: bool = True) -> str:
        share = row["top10_by_frame"]
        return f"{100 * sum(share[-end:] if last else share[:end]):.1f}"

    lines = [
        [
            "layer",
            f"top-10 % in the first {end} frames, %",
            f"in the last {end}, %",
            f"last {end}: shuffled",
            "identical",
            "black",
            "follows slot / content",
            "position peak",
            "top-10 % a position, peak",
        ]
    ]
    lines.append(["---"] * len(lines[0]))
    for number, row in enumerate(found["layers"]):
        after, mixed = row["debiased"], controls["shuffled"][number]
        kept = [f"{each['top10_position_peak_to_mean']:.2f}" for each in (row, after)]
        lines.append(
            [
                str(row["layer"]),
                f"{at_end(row, last=False)} → {at_end(after, last=False)}",
                f"{at_end(row)} → {at_end(after)}",
                *(at_end(controls[name][number]) for name in ("shuffled", "identical", "black")),
                f"{mixed['follows_slot']:+.2f} / {mixed['follows_content']:+.2f}",
                f"{row['position_peak_to_mean']:.2f}",
                " → ".join(kept),
            ]
        )
    note = (
        f"{found['clips']} clips of {found['frames']} frames, {found['segments']:.1f} segments each on "
        f"average. If every frame had its even share, {100 * end / found['frames']:.1f} % would lie at each "
        "end. After an arrow: AdaTP's rules, applied to the same attention."
    )
    return "\n".join(f"| {' | '.join(line)} |" for line in lines) + f"\n\n{note}"


SECTIONS: dict[tuple[str, str], Callable[[], str]] = {
    ("docs/accuracy.md", "results"): accuracy,
    ("docs/attention-bias.md", "embedded"): lambda: bias("bias-embedded"),
    ("docs/attention-bias.md", "smollm2"): lambda: bias("bias-smollm2"),
}
"""What stands between the marks of that name in that file."""


def written(text: str, mark: str, section: str) -> str:
    """A page with the section between its two marks renewed."""
    between = re.compile(f"(?<=<!-- {mark} -->\n).*(?=<!-- /{mark} -->)", re.DOTALL)
    return between.sub(lambda _: f"\n{section}\n\n", text)


def _read(name: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((RESULTS / f"{name}.json").read_text())
    return found


def main() -> None:
    """Renew every section."""
    for (file, mark), section in SECTIONS.items():
        page = ROOT / file
        page.write_text(written(page.read_text(), mark, section()))


if __name__ == "__main__":
    main()
