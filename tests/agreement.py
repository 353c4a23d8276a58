"""What the suite says of itself: by how much numbers disagree, and which family has passed which feature.

Every comparison goes through the fixture ``agree``, which records its error; tests of a feature carry its
mark (``conformance.feature``). The summary prints the largest error of each feature, and
``--families-page`` writes the table of families and features.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from oracle import Record, masking_error

PRECISIONS = ("float64", "float32", "bfloat16")
MARK = "families"

Results = Mapping[tuple[str, str], str]
"""``passed`` or ``failed`` of each (feature, family) that ran."""


class DisagreementError(AssertionError):
    """Numbers that should agree do not.

    Attributes:
        error: their largest difference.
    """

    def __init__(self, error: float, within: float) -> None:
        super().__init__(f"the largest difference is {error:.3g}, more than {within:.3g}")
        self.error = error


class Agree:
    """Demands that numbers agree, and records by how much they do not.

    Args:
        record: called with a name and a value for each comparison, as pytest's ``record_property`` is.
    """

    def __init__(self, record: Callable[[str, object], None] = lambda name, value: None) -> None:
        self.record = record

    def __call__(self, found: Tensor, expected: Tensor, within: float = 0.0) -> None:
        """Largest difference of two tensors; by default they are to be equal to the bit."""
        same = torch.equal(found, expected)
        error = 0.0 if same else (found.double() - expected.double()).abs().max().item()
        self.error(error, within, found.dtype)

    def masked(
        self, model: Any, record: Record, kept: Sequence[Sequence[Tensor]], real: Tensor, within: float
    ) -> None:
        """Recorded logits and those of the masked run (see ``oracle.masked_logits``)."""
        self.error(masking_error(model, record, kept, real), within, record.logits[0].dtype)

    def error(self, error: float, within: float, precision: torch.dtype) -> None:
        """An error found by other means, in numbers of ``precision``."""
        self.record("error", [str(precision).removeprefix("torch."), error, within])
        if not error <= within:  # nor is it no number
            raise DisagreementError(error, within)


@pytest.fixture
def agree(record_property: Callable[[str, object], None]) -> Agree:
    """Demands that numbers agree, and records the error for the summary."""
    return Agree(record_property)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--families-page",
        type=Path,
        metavar="PAGE",
        help="write the table of families and features into PAGE",
    )


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "feature(name): what the test shows of the family it runs for")
    if config.option.families_page and (
        config.option.keyword or config.option.markexpr or any("::" in name for name in config.args)
    ):
        raise pytest.UsageError(
            "--families-page tells of what passed whole: leave out -k, -m and single tests"
        )


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        for mark in item.iter_markers("feature"):
            family = item.callspec.params["family"].name  # type: ignore[attr-defined]
            item.user_properties.append(("feature", [mark.args[0], family]))


def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    outcomes: dict[tuple[str, str], set[str]] = defaultdict(set)
    errors: dict[tuple[str, str], list[float]] = defaultdict(list)
    for outcome in ("passed", "failed", "error"):
        for report in terminalreporter.stats.get(outcome, []):
            features = [value for name, value in report.user_properties if name == "feature"]
            for feature, family in features:
                outcomes[feature, family].add("passed" if outcome == "passed" else "failed")
            for name, value in report.user_properties:
                if name == "error":
                    precision, error, within = value
                    row = features[0][0] if features else "elsewhere"
                    errors[row, precision if within else "exact"].append(error)
    results = {cell: "passed" if found == {"passed"} else "failed" for cell, found in outcomes.items()}
    if errors:
        terminalreporter.section("largest errors")
        for line in error_table(errors):
            terminalreporter.line(line)
    if config.option.families_page:
        write_page(config.option.families_page, results)


def error_table(errors: Mapping[tuple[str, str], list[float]]) -> list[str]:
    """A line a feature and one for all: the largest error by precision, and what is equal to the bit."""
    features = list(dict.fromkeys(feature for feature, _ in errors))

    def line(name: str, among: list[str]) -> str:
        found = {p: [e for f in among for e in errors.get((f, p), [])] for p in (*PRECISIONS, "exact")}
        cells = [f"{max(found[p]):9.1e}" if found[p] else " " * 9 for p in PRECISIONS]
        exact = found["exact"]
        bits = f"{sum(e == 0 for e in exact)} of {len(exact)}" if exact else ""
        return f"{name:16}{'  '.join(cells)}  {bits:>12}"

    head = f"{'':16}{'  '.join(f'{p:>9}' for p in PRECISIONS)}  {'to the bit':>12}"
    return [head, *(line(feature, [feature]) for feature in features), line("all", features)]


def families_section(results: Results) -> str:
    """The table, a row a family and a column a feature, and why what can't be asked of a family is not."""
    from conformance import FEATURES
    from families import FAMILIES

    reasons: list[str] = []

    def cell(family: Any, feature: str) -> str:
        why = family.lacks().get(feature)
        if why is None:
            return {"passed": "yes", "failed": "**fails**"}.get(
                results.get((feature, family.name), ""), "not run"
            )
        if why not in reasons:
            reasons.append(why)
        return f"– [{reasons.index(why) + 1}]"

    rows = [
        ["", *FEATURES],
        ["---", *("---" for _ in FEATURES)],
        *([f"`{family.name}`", *(cell(family, feature) for feature in FEATURES)] for family in FAMILIES),
    ]
    table = "\n".join(f"| {' | '.join(row)} |" for row in rows)
    notes = "\n".join(f"- [{number}] {why}." for number, why in enumerate(reasons, 1))
    told = "\n".join(f"- **{name}**: {meaning}." for name, meaning in FEATURES.items())
    return f"{table}\n\n{notes}\n\n{told}"


def write_page(page: Path, results: Results) -> None:
    """Renew the table on the page."""
    from result_tables import written

    page.write_text(written(page.read_text(), MARK, families_section(results)))
