"""Keys of the API, from the environment or a file. Never from the command line, where others can read
them.
"""

from __future__ import annotations

import hashlib
import hmac
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from adatp.errors import RefusedError

VARIABLE = "ADATP_API_KEY"
"""The environment variable that holds a key."""

MOST_BYTES = 1 << 16
"""Largest size of a key file in bytes."""


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
            with file.open("rb") as opened:
                text = opened.read(MOST_BYTES + 1)
        except OSError as error:
            raise RefusedError(f"--api-key-file {file}: can't be read ({error.strerror})") from error
        lines = text.decode("latin-1").splitlines() if len(text) <= MOST_BYTES else []
        found = [_checked(line.strip(), f"--api-key-file {file}") for line in lines if line.strip()]
        if not found:
            raise RefusedError(f"--api-key-file {file}: no key in it; write one a line")
        keys += found
    return tuple(keys)


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
