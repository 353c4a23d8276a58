"""The page of families is that of the families and features there are; every cell of it ran."""

from __future__ import annotations

import json

import pytest
import test_conformance
import test_conformance_settings

from adatp.models import CHECKPOINTS
from adatp.models import FAMILIES as REGISTRY
from agreement import MARK, PAGE, SEEN, families_section, families_seen
from families import FAMILIES
from result_tables import written
from suite import FEATURES


def test_page_and_command_tell_of_every_family_and_feature() -> None:
    """They are what a run writes that asked everything of everyone, and passed."""
    passed = {(feature, family.name): "passed" for feature in FEATURES for family in FAMILIES}
    told = json.loads(SEEN.read_text())
    assert told == {**families_seen(passed), "transformers": told["transformers"]}
    page = PAGE.read_text()
    assert f"<!-- {MARK} -->" in page
    assert written(page, MARK, families_section(told)) == page
    assert {*CHECKPOINTS} == {*told["families"]} == {*REGISTRY}


def test_what_did_not_run_or_failed_is_not_claimed() -> None:
    [first, second] = list(FEATURES)[:2]
    name = FAMILIES[0].name
    assert {first, second}.isdisjoint(FAMILIES[0].lacks())
    seen = families_seen({(first, name): "failed"})
    assert seen["families"][name][first] == "fails in the suite"
    assert seen["families"][name][second] == "not run"
    section = families_section(seen)
    row = section.splitlines()[2]
    assert row.startswith(f"| `{name}` | – [1] | – [2] |")
    assert "yes" not in row
    assert "- [1] fails in the suite." in section


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
    result = pytester.runpytest("-p", "agreement", "--families", "-k", "nothing")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(["*leave out -k*"])
