"""The tables of the first world: who has a row, and what stands in it."""

from __future__ import annotations

from typing import Any

from result_tables import by_method, table


def row(accuracy: float, target: float | None, **names: str) -> dict[str, Any]:
    return {"frames": 16, "flops_target": target, "accuracy": accuracy, **names}


def test_two_settings_of_one_method_have_rows_of_their_own() -> None:
    rows = [
        row(0.9, None, method="vanilla"),
        row(0.8, 0.1, method="adatp"),
        row(0.7, 0.1, method="adatp", variant="adatp-paper"),
    ]
    assert table(by_method(rows)).splitlines()[2:] == [
        "| vanilla | 90.0 |",
        "| adatp | 80.0 |",
        "| adatp-paper | 70.0 |",
    ]
