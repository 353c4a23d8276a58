"""How near to its limit each comparison of numbers comes: a plugin that ``make rounding`` adds to pytest.

Comparisons by ``agree`` say so themselves. Those by ``pytest.approx``, ``torch.allclose``,
``torch.testing.assert_close`` and ``numpy.testing.assert_allclose`` are watched. Comparisons to the bit are
left out.

With ``MARGINS_SUBSET`` set, of the tests with the fixture ``agree`` one of each function and family runs, in
float32 and with a ragged batch where there is one; which attention and which method varies by family.
``MARGINS_FAMILIES`` names families, separated by commas: only these, and tests of no family.
"""

from __future__ import annotations

import json
import os
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

FOUND: dict[str, list[float]] = {}
"""By test and kind of comparison: the largest error as a share of its limit, and that error and limit."""


def note(kind: str, error: float, limit: float, test: str = "") -> None:
    test = test or os.environ.get("PYTEST_CURRENT_TEST", "").rpartition(" ")[0]
    if not test or not limit > 0 or not np.isfinite([error, limit]).all():
        return
    key = f"{test} {kind}"
    if error / limit >= FOUND.get(key, [-1.0])[0]:
        FOUND[key] = [error / limit, error, limit]


def share(found: Any, expected: Any, rtol: float, atol: float) -> tuple[float, float]:
    """Error and limit of the element that comes nearest to its limit."""
    found, expected = (np.asarray(torch.as_tensor(x).detach().double()) for x in (found, expected))
    found, expected = (x.ravel() for x in np.broadcast_arrays(found, expected))
    if not found.size:
        return 0.0, 0.0
    error, limit = np.abs(found - expected), atol + rtol * np.abs(expected)
    at = int(np.nanargmax(np.where(limit > 0, error / np.where(limit > 0, limit, 1), 0)))
    return float(error[at]), float(limit[at])


def watch(owner: Any, name: str, rtol: float, atol: float) -> None:
    compare = getattr(owner, name)

    def watched(found: Any, expected: Any, *args: Any, **kwargs: Any) -> Any:
        limits = [kwargs.get(key, default) for key, default in (("rtol", rtol), ("atol", atol))]
        if None not in limits:  # None: by the precision of what is compared
            note(name, *share(found, expected, *limits))
        return compare(found, expected, *args, **kwargs)

    setattr(owner, name, watched)


def watch_approx() -> None:
    scalar: Any = type(pytest.approx(1.0))
    equal = scalar.__eq__

    def watched(self: Any, actual: Any) -> bool:
        same = equal(self, actual)
        if same and isinstance(actual, int | float | np.generic) and isinstance(self.expected, int | float):
            note("approx", abs(float(actual) - self.expected), float(self.tolerance))
        return same

    scalar.__eq__ = watched


watch(torch, "allclose", 1e-5, 1e-8)
watch(torch.testing, "assert_close", 1.3e-6, 1e-5)
watch(np.testing, "assert_allclose", 1e-7, 0.0)
watch_approx()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if not os.environ.get("MARGINS_SUBSET"):
        return
    only = os.environ.get("MARGINS_FAMILIES", "").split(",") if os.environ.get("MARGINS_FAMILIES") else []
    chosen: dict[tuple[str, str], pytest.Item] = {}
    for item in sorted(items, key=representative):
        params = getattr(getattr(item, "callspec", None), "params", {})
        family = getattr(params.get("family"), "name", "")
        if "agree" in getattr(item, "fixturenames", ()) and (not family or not only or family in only):
            chosen.setdefault((item.nodeid.partition("[")[0], family), item)
    kept = {id(item) for item in chosen.values()}
    items[:] = [item for item in items if id(item) in kept]


def representative(item: pytest.Item) -> tuple[bool, bool, int]:
    """Sorts the tests of one function and family: the first one stands for them."""
    return "float64" in item.nodeid, "ragged" not in item.nodeid, zlib.crc32(item.nodeid.encode())


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Iterator[None]:
    report = yield
    for name, value in report.user_properties if report.when == "call" else ():
        if name == "error":
            note(f"agree {value[0]}", *value[1:], test=item.nodeid)
    return report


def pytest_sessionfinish() -> None:
    Path(os.environ["MARGINS"]).write_text(json.dumps(FOUND, indent=1))
