"""What the suite says of itself: by how much numbers disagree, and which family has passed which feature.

Every comparison goes through the fixture ``agree``, which records its error; tests of a feature carry its
mark (``suite.feature``). The summary prints the largest error of each feature, and
``--families`` writes the table of families and features.
"""

from __future__ import annotations

import json
import math
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
ROOT = Path(__file__).parents[2]
OBSERVED, PAGE = ROOT / "src" / "adatp" / "models" / "tested.json", ROOT / "docs" / "families.md"

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
        "--every-setting",
        action="store_true",
        help="run all settings of the families that take turns in them",
    )
    parser.addoption(
        "--families", action="store_true", help="write the table of families and features: docs/families.md"
    )


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "feature(name): what the test shows of the family it runs for")
    if config.option.families and (
        config.option.keyword or config.option.markexpr or any("::" in name for name in config.args)
    ):
        raise pytest.UsageError("--families tells of what passed whole: leave out -k, -m and single tests")


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if not config.option.every_setting:
        left_out = taking_turns(items)
        if left_out:
            config.hook.pytest_deselected(items=left_out)
            items[:] = [item for item in items if item not in set(left_out)]
    for item in items:
        for mark in item.iter_markers("feature"):
            family = item.callspec.params["family"].name  # type: ignore[attr-defined]
            item.user_properties.append(("feature", [mark.args[0], family]))


def taking_turns(items: Sequence[pytest.Item]) -> list[pytest.Item]:
    """What is left out where families share the settings of a test: each runs one of them, of dropping two.

    The settings (attention, cache, batch, when tokens are cut) go round: the next family runs another one, so
    that all of a test's settings, and with them all pairs of their values, run on one family or another. All
    of them run on each family of ``families.COMPLETE`` as well.
    """
    from families import COMPLETE, FAMILIES  # not before torchvision is on the path
    from more_families import MORE

    sharing = [*MORE, *(family for family in FAMILIES if family not in COMPLETE)]
    turn = {family: number for number, family in enumerate(sharing)}
    groups: dict[tuple[str, Any], list[pytest.Item]] = defaultdict(list)
    for item in items:
        family = getattr(item, "callspec", None) and item.callspec.params.get("family")  # type: ignore[attr-defined]
        if isinstance(family, type) and family in turn and item.get_closest_marker("feature"):
            groups[item.nodeid.split("[")[0], family].append(item)
    left_out: list[pytest.Item] = []
    tests = {test: number for number, test in enumerate(dict.fromkeys(test for test, _ in groups))}
    for (test, family), settings in groups.items():
        count = len(settings)
        step = next(step for step in range(round(0.618 * count), 2 * count + 2) if math.gcd(step, count) == 1)
        runs = 2 if settings[0].get_closest_marker("feature").args[0] == "drop" else 1  # type: ignore[union-attr]
        chosen = {((runs * turn[family] + run) * step + tests[test]) % count for run in range(runs)}
        left_out += [item for number, item in enumerate(settings) if number not in chosen]
    return left_out


def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    outcomes: dict[tuple[str, str], set[str]] = defaultdict(set)
    errors: dict[tuple[str, str], list[float]] = defaultdict(list)
    for outcome in ("passed", "failed", "error"):
        for report in terminalreporter.stats.get(outcome, []):
            properties = getattr(report, "user_properties", ())  # a module that cannot be imported has none
            features = [value for name, value in properties if name == "feature"]
            for feature, family in features:
                outcomes[feature, family].add("passed" if outcome == "passed" else "failed")
            for name, value in properties:
                if name == "error":
                    precision, error, within = value
                    row = features[0][0] if features else "elsewhere"
                    errors[row, precision if within else "exact"].append(error)
    results = {cell: "passed" if found == {"passed"} else "failed" for cell, found in outcomes.items()}
    if errors:
        terminalreporter.section("largest errors")
        for line in error_table(errors):
            terminalreporter.line(line)
    if config.option.families:
        write_page(results)


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


def families_observed(results: Results) -> dict[str, Any]:
    """What ``adatp models`` and the page of families tell: by family and feature ``yes``, or why not."""
    import transformers  # not before torchvision is on the path

    from suite import EVERY, FEATURES

    def cell(family: Any, feature: str) -> str:
        noted = {"passed": "yes", "failed": "fails in the suite"}
        observed = results.get((feature, family.name), "")
        return family.lacks().get(feature) or noted.get(observed, "not run")

    return {
        "transformers": transformers.__version__,
        "features": FEATURES,
        "families": {family.name: {name: cell(family, name) for name in FEATURES} for family in EVERY},
    }


def families_section(observed: Mapping[str, Any]) -> str:
    """The types that do all, the others with what they do not do, and the reasons."""
    reasons: list[str] = []

    def missing(noted: Mapping[str, str]) -> str:
        found = {feature: why for feature, why in noted.items() if why != "yes"}
        reasons.extend(why for why in dict.fromkeys(found.values()) if why not in reasons)
        return ", ".join(f"{feature} [{reasons.index(why) + 1}]" for feature, why in found.items())

    lacking = {name: missing(noted) for name, noted in observed["families"].items()}
    complete = ", ".join(f"`{name}`" for name, but in lacking.items() if not but)
    rows = [
        ["Model type", "all but"],
        ["---", "---"],
        *([f"`{name}`", but] for name, but in lacking.items() if but),
    ]
    table = "\n".join(f"| {' | '.join(row)} |" for row in rows)
    notes = "\n".join(f"- [{number}] {why}." for number, why in enumerate(reasons, 1))
    noted = "\n".join(f"- **{name}**: {meaning}." for name, meaning in observed["features"].items())
    return (
        f"{len(lacking)} model types. These have every feature: {complete}.\n\n{table}\n\n{notes}\n\n"
        f"The features:\n\n{noted}\n\nSeen with transformers {observed['transformers']}."
    )


def write_page(results: Results) -> None:
    """Renew what ``adatp models`` reads, and the table on the page."""
    from result_tables import written

    observed = families_observed(results)
    OBSERVED.write_text(json.dumps(observed, indent=1) + "\n")
    PAGE.write_text(written(PAGE.read_text(), MARK, families_section(observed)))
