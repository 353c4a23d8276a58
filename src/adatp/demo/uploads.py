"""Handles uploads: one clip at a time, each removed after a while."""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Awaitable, Callable, Iterable, Iterator, MutableMapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from adatp.demo.refusal import RefusalError

KEEP_SECONDS, ABANDONED_SECONDS, SWEEP_SECONDS = 3600.0, 120.0, 60.0
"""Seconds until a clip is removed, until a broken-off upload is removed, and between two sweeps."""

MOST_HEAD = 8 << 10
"""Bytes before the clip: boundary, name, type."""

_DISPOSITION = re.compile(
    rb'\r\ncontent-disposition: form-data; name="[^"\r\n]*"; filename="[^"\r\n]+"(?=\r\n|$)', re.IGNORECASE
)
"""The declaration, in the head of a part, that it is a file."""

_Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]


class OneFile:
    """The body of an upload while it is read: exactly one file, of bounded size.

    Gradio reads fields that are not files into memory. So a body with such a field, or with several parts, is
    cut off.

    Attributes:
        refusal: why it was cut off, if it was.
    """

    def __init__(self, receive: _Receive, headers: dict[str, str], most: int) -> None:
        """Check the headers of an upload.

        Args:
            receive: gives the body (see ASGI).
            headers: of the request.
            most: bytes of the largest file.

        Raises:
            RefusalError: they announce no file, or one that is too large.
        """
        found = re.fullmatch(
            r'multipart/form-data;\s*boundary="?([\w\'()+,./:=?-]{1,70})"?',
            headers.get("content-type", ""),
            re.IGNORECASE,
        )
        if found is None:
            raise RefusalError(400, "an upload is one file of a form")
        self.refusal: RefusalError | None = None
        self._receive, self._most = receive, most + MOST_HEAD
        self._delimiter = b"\r\n--" + found[1].encode()
        self._head: bytes | None = b"\r\n"
        self._tail, self._read, self._closed = b"", 0, False
        length = headers.get("content-length", "0")
        if not length.isdecimal() or len(length) > 18 or int(length) > self._most:
            raise self._too_large()

    def _too_large(self) -> RefusalError:
        return RefusalError(413, f"a clip has {(self._most - MOST_HEAD) >> 20} MB at most")

    async def __call__(self) -> MutableMapping[str, Any]:
        """The next piece of the body. After a refusal, it looks as if the client had left."""
        message = await self._receive()
        if self.refusal is None and message["type"] == "http.request":
            self.refusal = self._objection(message.get("body", b""))
        return {"type": "http.disconnect"} if self.refusal is not None else message

    def _objection(self, piece: bytes) -> RefusalError | None:
        self._read += len(piece)
        if self._read > self._most:
            return self._too_large()
        if self._head is not None:
            self._head += piece
            head, found, piece = self._head.partition(b"\r\n\r\n")
            if len(head) > MOST_HEAD:
                return _no_file()
            if not found:
                return None
            begins = head.startswith(self._delimiter + b"\r\n")
            if not begins or head.count(self._delimiter) > 1 or len(_DISPOSITION.findall(head)) != 1:
                return _no_file()
            if head.lower().count(b"content-disposition") != 1:
                return _no_file()
            self._head, self._tail = None, b"\r\n"
        read = self._tail + piece
        at = read.find(self._delimiter)
        if self._closed:
            return _no_file() if read.strip() else None
        if at >= 0 and len(rest := read[at + len(self._delimiter) :]) >= 2:
            if rest[:2] != b"--" or rest[2:].strip():
                return _no_file()
            self._closed, self._tail = True, b""
            return None
        self._tail = read[at:] if at >= 0 else read[-len(self._delimiter) :]
        return None


def _no_file() -> RefusalError:
    return RefusalError(400, "an upload is one file of a form")


def stored_bytes(folder: Path) -> int:
    """The bytes of all files in a folder and below."""
    return sum(_facts(path)[0] for path in folder.rglob("*"))


def _facts(path: Path) -> tuple[int, float]:
    """Size of a file and its time of last change; zeros if there is no file, or no longer."""
    with suppress(OSError):
        if path.is_file():
            facts = path.stat()
            return facts.st_size, facts.st_mtime
    return 0, 0.0


def sweep(folder: Path, kept: Iterable[Path], now: float) -> None:
    """Remove old clips, and uploads that were broken off.

    Args:
        folder: uploads are written into it, and moved into their own folders once they are complete.
        kept: files that stay.
        now: seconds since the epoch.
    """
    stay = set(kept)
    for path in folder.rglob("*"):
        written = _facts(path)[1]
        most = ABANDONED_SECONDS if path.parent == folder else KEEP_SECONDS
        if written and now - written > most and path not in stay:
            with suppress(OSError):
                path.unlink()
    for path in folder.iterdir():
        with suppress(OSError):  # those with files in them stay
            path.rmdir()


@contextmanager
def swept(folder: Path) -> Iterator[None]:
    """Sweep a folder regularly. Its files at the beginning stay."""
    kept = [path for path in folder.rglob("*") if path.is_file()]
    done = threading.Event()

    def work() -> None:
        while not done.wait(SWEEP_SECONDS):
            sweep(folder, kept, time.time())

    thread = threading.Thread(target=work, name="adatp-sweep", daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()
