"""Setup of the tests against a real vLLM; `make vllm` runs them in an environment of their own."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

# Before vLLM is imported. One thread, one process, a small cache, no hub.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("VLLM_CPU_OMP_THREADS_BIND", "nobind")
os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", "1")
os.environ.setdefault("VLLM_ENABLE_V1_MULTIPROCESSING", "0")
os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")
os.environ.setdefault("VLLM_NO_USAGE_STATS", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")

import engines
import pytest


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Writes the checkpoint of a family once."""
    folder = tmp_path_factory.mktemp("checkpoints")
    return lambda family: engines.checkpoint(family, folder)


@pytest.fixture(scope="session")
def engine(checkpoint: Callable[[str], Path]) -> Iterator[Callable[..., engines.Engine]]:
    """Engine of a family with options; the one before it is closed, unless it is the same."""
    running: dict[str, Any] = {}

    def start(family: str, **options: Any) -> engines.Engine:
        key = repr((family, sorted(options.items())))
        if key not in running:
            for other in running.values():
                other.close()
            running.clear()
            running[key] = engines.Engine(family, checkpoint(family), **options)
        running[key].seen.clear()
        return running[key]  # type: ignore[no-any-return]

    yield start
    for other in running.values():
        other.close()
