"""What is asked of the machine."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from adatp.machine import cores, peak_resident

PROGRAM = "from adatp.machine import peak_resident; print(peak_resident())"


def test_cores_are_those_that_the_process_may_use() -> None:
    assert 1 <= cores() <= (os.cpu_count() or 1)


@pytest.mark.skipif(not os.path.exists("/proc/self/status"), reason="there is no /proc")
def test_a_peak_is_of_the_process_and_not_of_the_one_that_started_it() -> None:
    ballast = bytearray(b"x" * (200 << 20))
    assert peak_resident() > 200 << 20
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=True)
    assert 1 << 20 < int(done.stdout) < 100 << 20
    del ballast


@pytest.mark.skipif(not os.path.exists("/proc/self/status"), reason="there is no /proc")
def test_the_peak_of_another_process_is_read_while_it_runs() -> None:
    with subprocess.Popen([sys.executable, "-c", "print(flush=True); input()"], stdin=-1, stdout=-1) as other:
        assert other.stdout is not None
        other.stdout.readline()
        assert 1 << 20 < peak_resident(other.pid) < 100 << 20
        other.kill()
        os.waitid(os.P_PID, other.pid, os.WEXITED | os.WNOWAIT)  # ended, its exit code still to be read
        with pytest.raises(OSError, match="has ended"):
            peak_resident(other.pid)
        other.wait()
    with pytest.raises(FileNotFoundError):
        peak_resident(other.pid)


def test_without_proc_the_system_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("adatp.machine.Path.exists", lambda _: False)
    assert peak_resident() > 1 << 20
