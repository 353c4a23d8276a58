"""Keys of the API, from the environment or a file. Never from the command line, where others can read
them.
"""

from __future__ import annotations

import hashlib
import hmac
import os
import re
import select
import stat
from collections.abc import Mapping, Sequence
from pathlib import Path

from adatp.errors import RefusedError

VARIABLE = "ADATP_API_KEY"
"""The environment variable that holds a key."""

MOST_BYTES = 1 << 16
"""Largest size of a key file in bytes."""

PIPE_SECONDS = 10.0
"""Seconds to wait for the next bytes of a pipe."""


def read_keys(file: Path | None, environment: Mapping[str, str] = os.environ) -> tuple[str, ...]:
    """The accepted keys: from the environment variable, and from a file with one per line.

    Raises:
        RefusedError: the file can't be read or holds no key, or one is no printable ASCII.
    """
    keys = []
    if VARIABLE in environment:
        keys.append(_checked(environment[VARIABLE].strip(), f"${VARIABLE}"))
    if file is not None:
        try:
            text = _content(file)
        except OSError as error:
            raise RefusedError(f"--api-key-file {file}: can't be read ({error.strerror})") from error
        lines = text.decode("latin-1").splitlines() if len(text) <= MOST_BYTES else []
        found = [_checked(line.strip(), f"--api-key-file {file}") for line in lines if line.strip()]
        if not found:
            raise RefusedError(f"--api-key-file {file}: no key in it; write one a line")
        keys += found
    return tuple(keys)


def _content(file: Path) -> bytes:
    """The beginning of a file, or of a pipe such as a shell's ``<(...)``. One without a writer is empty."""
    descriptor = os.open(file, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0))
    with open(descriptor, "rb", buffering=0) as opened:
        found = b""
        while len(found) <= MOST_BYTES:
            if stat.S_ISFIFO(os.fstat(descriptor).st_mode):
                select.select([opened], [], [], PIPE_SECONDS)
            piece = opened.read(MOST_BYTES + 1 - len(found))
            if not piece:  # the end, or nothing came
                break
            found += piece
        return found


def _checked(key: str, where: str) -> str:
    if not re.fullmatch(r"[!-~]{1,512}", key):
        raise RefusedError(f"{where}: a key is up to 512 printable ASCII characters without blanks")
    return key


def is_known(given: str | None, keys: Sequence[str]) -> bool:
    """Whether an ``Authorization`` header has one of the keys.

    It takes the same time whichever key it is, and however much of it is right.
    """
    scheme, _, key = (given or "").partition(" ")
    digest = hashlib.sha256(key.strip().encode("utf-8", "surrogateescape")).digest()
    found = False
    for known in keys:
        found |= hmac.compare_digest(digest, hashlib.sha256(known.encode()).digest())
    return found and scheme.lower() == "bearer"
