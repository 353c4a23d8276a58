"""The page of families is that of the families and features there are; every cell of it ran."""

from __future__ import annotations

from pathlib import Path

import pytest

import test_conformance
import test_conformance_settings
from agreement import MARK, families_section
from conformance import FEATURES
from families import FAMILIES
from result_tables import written

PAGE = Path(__file__).parent.parent / "docs" / "families.md"


def test_the_page_tells_of_every_family_and_feature() -> None:
    """It is what a run writes that asked everything of everyone, and passed."""
    passed = {(feature, family.name): "passed" for feature in FEATURES for family in FAMILIES}
    page = PAGE.read_text()
    assert f"<!-- {MARK} -->" in page
    assert written(page, MARK, families_section(passed)) == page


def test_what_did_not_run_or_failed_is_not_claimed() -> None:
    [first, second] = list(FEATURES)[:2]
    name = FAMILIES[0].name
    row = families_section({(first, name): "failed"}).splitlines()[2]
    assert row.startswith(f"| `{name}` | **fails** | not run |")
    assert "yes" not in row
    assert second not in FAMILIES[0].lacks()


def test_every_feature_has_a_test() -> None:
    marks = {
        mark.args[0]
        for module in (test_conformance, test_conformance_settings)
        for test in vars(module).values()
        for mark in getattr(test, "pytestmark", [])
        if mark.name == "feature"
    }
    assert marks == set(FEATURES)


def test_a_part_of_the_suite_writes_no_page(pytester: pytest.Pytester) -> None:
    """Nor does it fill the table with what it left out."""
    pytester.makepyfile("def test_nothing(): pass")
    result = pytester.runpytest("-p", "agreement", "--families-page", "page.md", "-k", "nothing")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(["*leave out -k*"])
