"""Ray, on a cluster of its own on this machine; `make ray` runs these tests where Ray is installed."""

from __future__ import annotations

import os
from collections.abc import Iterator
from importlib.util import find_spec
from typing import Any

import pytest

if find_spec("ray") is None:  # `make test` runs in an environment without it, whose versions would disagree
    collect_ignore_glob = ["test_*.py"]

OUTDATED = ("ray.data.context",)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Ray's processes talk to each other; nobody else is talked to."""
    for item in items:
        if "tests/ray_data/" in item.path.as_posix():
            item.add_marker(pytest.mark.allow_hosts(["127.0.0.1", "::1"]))
            for module in OUTDATED:  # in what Ray itself does
                item.add_marker(pytest.mark.filterwarnings(f"ignore::DeprecationWarning:{module}"))


@pytest.fixture(scope="session")
def cluster() -> Iterator[Any]:
    """A cluster with room for two actors and for reading."""
    import ray

    assert os.environ.get("RAY_USAGE_STATS_ENABLED") == "0"
    ray.init(
        num_cpus=4,
        address="local",
        include_dashboard=False,
        _node_ip_address="127.0.0.1",
        log_to_driver=False,
        logging_level="error",
    )
    ray.data.DataContext.get_current().enable_progress_bars = False
    yield ray
    ray.shutdown()
