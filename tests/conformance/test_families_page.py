"""The page of families is that of the families and features there are; every cell of it ran."""

from __future__ import annotations

import importlib
import json
from pathlib import Path

import pytest
import transformers

from adatp.models import supported
from agreement import MARK, OBSERVED, PAGE, families_observed, families_section
from result_tables import written
from suite import EVERY, FEATURES


def test_page_and_command_tell_of_every_family_and_feature() -> None:
    """They are what a run writes that asked everything of everyone, and passed."""
    passed = {(feature, family.name): "passed" for feature in FEATURES for family in EVERY}
    noted = json.loads(OBSERVED.read_text())
    if noted["transformers"] != transformers.__version__:
        pytest.skip(f"the page tells of transformers {noted['transformers']}, whose model types differ")
    assert noted == families_observed(passed)
    page = PAGE.read_text()
    assert f"<!-- {MARK} -->" in page
    assert written(page, MARK, families_section(noted)) == page
    assert {*noted["families"]} == {*supported()}
    assert all(supported().values())


def test_what_did_not_run_or_failed_is_not_claimed() -> None:
    [first, second] = list(FEATURES)[:2]
    name = EVERY[0].name
    assert {first, second}.isdisjoint(EVERY[0].lacks())
    observed = families_observed({(first, name): "failed"})
    assert observed["families"][name][first] == "fails in the suite"
    assert observed["families"][name][second] == "not run"
    section = families_section(observed)
    assert f"| `{name}` | {first} [1], {second} [2]" in section
    assert f"every feature: `{name}`" not in section
    assert "- [1] fails in the suite." in section


def test_every_feature_has_a_test() -> None:
    marks = {
        mark.args[0]
        for file in sorted(Path(__file__).parent.glob("test_*.py"))
        for module in [importlib.import_module(file.stem)]
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
