"""The printed output of ``adatp bias``."""

from __future__ import annotations

from typing import Any

from rich.text import Text

from adatp.cli.console import table_of, wide_console


def show_bias(facts: dict[str, Any]) -> None:
    """Print the two statistics before and after debiasing, and the results of the controls."""
    console = wide_console()
    end = max(1, facts["frames"] // 8)
    clips = f"{facts['clips']} clip{'s' if facts['clips'] > 1 else ''}"
    console.print(
        Text(
            f"{clips} of {facts['frames']} frames, {facts['segments']:.1f} segments each, "
            f"relevance {facts['relevance']}",
            "bold",
        )
    )

    def at_end(row: dict[str, Any], last: bool = True) -> float:
        share: list[float] = row["top10_by_frame"]
        return sum(share[-end:] if last else share[:end])

    def change(before: float, after: float, form: str) -> str:
        return f"{before:{form}} → {after:{form}}"

    table = table_of("layer", f"first {end}", f"last {end}", "position peak", "kept a position", "entropy")
    for row in facts["layers"]:
        after = row["debiased"]
        kept = [each["top10_position_peak_to_mean"] for each in (row, after)]
        table.add_row(
            str(row["layer"]),
            change(at_end(row, last=False), at_end(after, last=False), ".1%"),
            change(at_end(row), at_end(after), ".1%"),
            f"{row['position_peak_to_mean']:.2f}",
            change(kept[0], kept[1], ".2f"),
            f"{row['entropy']:.3f}",
        )
    console.print(table)
    controls = facts["controls"]
    table = table_of("layer", *(f"{name}: last {end}" for name in controls), "follows slot", "content")
    for number, row in enumerate(facts["layers"]):
        mixed = controls["shuffled"][number]
        table.add_row(
            str(row["layer"]),
            *(f"{at_end(rows[number]):.1%}" for rows in controls.values()),
            *("" if r is None else f"{r:+.2f}" for r in (mixed["follows_slot"], mixed["follows_content"])),
        )
    console.print(table)
    console.print(
        f"First {end}, last {end}: share of the top-10 % attended visual tokens in the first and last {end} "
        f"of {facts['frames']} frames, {end / facts['frames']:.1%} if every frame had its even share. "
        "Position peak: attention on the most attended spatial position, against the mean one; kept a "
        "position: the same of the number of top-10 % tokens. Entropy: 1 is an even spread. After the arrow: "
        "by AdaTP's rules on the same attention. Follows: correlation of attention by frame before and after "
        "shuffling, slot by slot and frame by frame.",
        style="dim",
        highlight=False,
    )
