"""Keeps two processes from writing one file."""

from __future__ import annotations

from contextlib import suppress
from typing import IO, Any


def lock(file: IO[Any]) -> bool:
    """Lock an open file for this process, until it is closed.

    On Windows, and in file systems without locks (Lustre as it is often mounted), nothing is locked.

    Returns:
        Whether no other process has locked it.
    """
    with suppress(ImportError):  # not on Windows
        import fcntl

        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except (BlockingIOError, PermissionError):
            return False
        except OSError:
            return True
    return True
