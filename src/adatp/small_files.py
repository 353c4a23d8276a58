"""Reads small files that a user names, such as settings and lists, of which any may be a bomb or no file."""

from __future__ import annotations

import json
import stat
from pathlib import Path
from typing import Any

from adatp.errors import AdaTPError

MOST_BYTES = 16 << 20
"""Size of the largest file."""


class SmallFileError(AdaTPError, ValueError):
    """The file can't be read. The message is the reason alone, without the file's name."""


def read_small(path: Path) -> bytes:
    """The content of a file.

    Raises:
        SmallFileError: it can't be read, is no regular file or has more than `MOST_BYTES`. A FIFO or
            /dev/zero would never end.
    """
    try:
        facts = path.stat()
        if not stat.S_ISREG(facts.st_mode):
            raise SmallFileError("not a regular file")
        if facts.st_size > MOST_BYTES:
            raise SmallFileError(f"{facts.st_size >> 20} MB are too many")
        return path.read_bytes()
    except (OSError, ValueError) as error:
        if isinstance(error, SmallFileError):
            raise
        raise SmallFileError(getattr(error, "strerror", None) or "no file has such a name") from error


def read_small_json(path: Path) -> Any:
    """The value in a JSON file.

    Raises:
        SmallFileError: as in `read_small`, or the file holds no JSON, or JSON that is nested too deeply.
    """
    try:
        return json.loads(read_small(path))
    except SmallFileError:
        raise
    except (ValueError, RecursionError) as error:
        raise SmallFileError("no JSON") from error
