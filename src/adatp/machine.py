"""What the machine gives to a process, and what the process took of its memory."""

from __future__ import annotations

import os
import sys
from pathlib import Path


def cores() -> int:
    """CPU cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def peak_resident(process: int | None = None) -> int:
    """The most memory that a process held at once, in bytes.

    Where there is a ``/proc`` it is of this program alone. Elsewhere the system counts in what the process
    that started this one held until then.

    Args:
        process: the id of a running one, where there is a ``/proc``; None: this one.

    Raises:
        OSError: no such process runs.
    """
    status = Path("/proc", "self" if process is None else str(process), "status")
    if status.exists() or process is not None:
        for line in status.read_text().splitlines():
            if line.startswith("VmHWM:"):
                return 1024 * int(line.split()[1])
        if process is not None:  # it has ended, and nobody has asked for its exit code
            raise ProcessLookupError(f"process {process} has ended")
    import resource  # not on Windows

    unit = 1 if sys.platform == "darwin" else 1024  # bytes there, KiB elsewhere
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
