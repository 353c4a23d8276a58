"""The table of the load benchmark, from rounds that are made up. `make vllm` has what it measures."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

from vllm_load import Row, Server, stop, table


def test_ratios_are_those_of_the_same_round(tmp_path: Path) -> None:
    """The machine is three times as slow in the second round, which no ratio shows."""
    with open(os.devnull) as nothing:
        process = subprocess.Popen([sys.executable, "-c", ""], stdin=nothing)
    process.wait()
    servers = [Server(name, 0, tmp_path, process) for name in ("vanilla", "adatp", "evs")]
    servers[2].failed = "it broke"
    first = Row("vanilla", 8, 0, 8, 2.0, 3.0, 1.5, 0.5, 500)
    ours = replace(first, entrant="adatp", first_token=1.0, throughput=3.0, prompt_tokens=125)
    slow = [
        replace(row, round=1, first_token=3 * row.first_token, throughput=row.throughput / 3)
        for row in (first, ours)
    ]
    lines = table([first, ours, *slow], servers).splitlines()
    assert lines[2] == "| vanilla | 8 | 500 | 4,000 | 3,000 | 1.00 | 0.50 |"
    assert lines[3] == (
        "| adatp | 8 | 125 | 2,000 (0.50, 0.50 to 0.50) | 3,000 (1.00, 1.00 to 1.00) | "
        "2.00 (2.00, 2.00 to 2.00) | 0.50 (1.00, 1.00 to 1.00) |"
    )
    assert lines[4] == "| evs | | | failed: it broke | | | |"
    assert len(lines) == 5


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_processor_time_is_that_of_a_server_and_of_what_it_starts(tmp_path: Path) -> None:
    busy = (
        "import time; end = time.process_time() + 0.5\nwhile time.process_time() < end: pass\ntime.sleep(60)"
    )
    starts = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {busy!r}])"
    process = subprocess.Popen([sys.executable, "-c", starts], start_new_session=True)
    server = Server("one", 0, tmp_path, process)
    try:
        until = time.monotonic() + 60
        while server.processor_seconds() < 0.4 and time.monotonic() < until:
            time.sleep(0.05)
        assert 0.4 <= server.processor_seconds() < 5
    finally:
        stop(server)
    assert process.poll() is not None
