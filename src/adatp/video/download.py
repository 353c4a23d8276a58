"""Downloads a video from an address on the web, within limits of size and time."""

from __future__ import annotations

import http.client
import math
import re
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import BinaryIO
from urllib.parse import urljoin

from adatp.video.addresses import Place, locate
from adatp.video.errors import VideoError
from adatp.video.opening import Check

Progress = Callable[[int, int | None], object]
"""Called with the number of bytes received, and the total if the server gives it."""

MOST_REDIRECTS = 5
_CONNECT_SECONDS = 10.0
_POLL_SECONDS = 0.2
_CHUNK = 1 << 16


@dataclass(frozen=True)
class Limits:
    """Limits of a download.

    Attributes:
        most_bytes: largest size of the file.
        most_seconds: from the first look-up of the address to the last byte.
        public_only: whether only machines of the public internet are allowed. If not, the address may name a
            machine of a private network, but a public one can't redirect there.
    """

    most_bytes: int = 2 << 30
    most_seconds: float = 600.0
    public_only: bool = False


def download(
    address: str,
    file: BinaryIO,
    limits: Limits,
    *,
    progress: Progress | None = None,
    check: Check | None = None,
) -> None:
    """Download an address into a file.

    This function follows every redirect itself and checks each address. It connects to exactly the machine
    that was checked: names are not resolved twice. Proxies are not used.

    Args:
        address: of http or https.
        file: open for writing.
        limits: of size, time and place.
        progress: see `Progress`.
        check: called several times a second; an error that it raises ends the download.

    Raises:
        VideoError: there is nothing at the address, or it exceeds a limit.
    """
    deadline = time.monotonic() + limits.most_seconds
    public = limits.public_only
    secure = False
    asked = address
    for _ in range(MOST_REDIRECTS + 1):
        if check is not None:
            check()
        place = locate(asked)
        if public and not place.public:
            raise VideoError(f"{address}: it leads to a machine that is not of the public internet")
        if secure and not place.secure:
            raise VideoError(f"{address}: it redirects from https to http")
        public, secure = public or place.public, secure or place.secure
        with (
            _Guard(address, deadline, limits.most_seconds, check) as guard,
            _said(address, guard),
            _connected(place, deadline, guard) as connection,
        ):
            response = _asked(connection, place)
            onward = _redirect(response, asked)
            if onward is None:
                _check_answer(address, response, limits)
                _copy(address, response, file, limits, progress)
                return
            asked = onward
    raise VideoError(f"{address}: more than {MOST_REDIRECTS} redirects")


class _Guard:
    """Ends a connection from another thread: at its deadline, or once ``check`` raises."""

    def __init__(self, address: str, deadline: float, seconds: float, check: Check | None) -> None:
        self.socket: socket.socket | None = None
        self.reason: BaseException | None = None
        self._late = VideoError(f"{address}: not there after {seconds:g} s, the limit")
        self._deadline, self._check = deadline, check
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="adatp-download", daemon=True)

    def __enter__(self) -> _Guard:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._done.wait(_POLL_SECONDS):
            try:
                if time.monotonic() > self._deadline:
                    raise self._late
                if self._check is not None:
                    self._check()
            except BaseException as error:  # passed on to the thread that downloads
                self.reason = self.reason or error
                if self.socket is not None:
                    with suppress(OSError):  # of the base class: that of TLS forgets its state at once
                        socket.socket.shutdown(self.socket, socket.SHUT_RDWR)


@contextmanager
def _said(address: str, guard: _Guard) -> Iterator[None]:
    """Turn an error during the download into one line."""
    try:
        yield
    except VideoError:
        if guard.reason is not None:
            raise guard.reason from None
        raise
    except (OSError, http.client.HTTPException, ValueError, AttributeError) as error:
        if guard.reason is not None:
            raise guard.reason from None
        why = "the certificate is not valid" if isinstance(error, ssl.SSLError) else type(error).__name__
        if isinstance(error, OSError) and not isinstance(error, ssl.SSLError):
            why = error.strerror or ("no answer" if isinstance(error, TimeoutError) else str(error))
        raise VideoError(f"{address}: can't be downloaded ({why})") from error
    if guard.reason is not None:
        raise guard.reason


@contextmanager
def _connected(place: Place, deadline: float, guard: _Guard) -> Iterator[http.client.HTTPConnection]:
    seconds = max(0.1, min(_CONNECT_SECONDS, deadline - time.monotonic()))
    connection = http.client.HTTPConnection(place.host, place.port)
    connection.default_port = 443 if place.secure else 80  # which is left out of Host
    raw = socket.create_connection((place.machine, place.port), seconds)
    try:
        if place.secure:
            guard.socket = raw
            raw = ssl.create_default_context().wrap_socket(raw, server_hostname=place.host)
        guard.socket = connection.sock = raw
        raw.settimeout(max(seconds, deadline - time.monotonic() + 1))  # the guard is there before that
        yield connection
    finally:
        guard.socket = None
        raw.close()


def _asked(connection: http.client.HTTPConnection, place: Place) -> http.client.HTTPResponse:
    headers = {"User-Agent": "adatp", "Accept": "video/*, image/*, */*;q=0.1", "Accept-Encoding": "identity"}
    connection.request("GET", place.target, headers=headers)
    return connection.getresponse()


def _redirect(response: http.client.HTTPResponse, asked: str) -> str | None:
    """The address that a response redirects to; None if it does not."""
    if response.status not in (301, 302, 303, 307, 308):
        return None
    onward = response.headers.get("Location", "")
    if not onward:
        raise VideoError(f"{asked}: it redirects nowhere")
    return urljoin(asked, onward)


def _check_answer(address: str, response: http.client.HTTPResponse, limits: Limits) -> None:
    if response.status != 200:
        raise VideoError(f"{address}: the server answers {response.status} {response.reason[:80]}".strip())
    if response.headers.get("Content-Encoding", "identity").lower() != "identity":
        raise VideoError(f"{address}: the server compresses the file, which was not asked for")
    announced = response.headers.get("Content-Length", "")
    if re.fullmatch(r"[0-9]+", announced) and int(announced) > limits.most_bytes:
        raise _too_long(address, limits)


def _too_long(address: str, limits: Limits) -> VideoError:
    return VideoError(f"{address}: larger than {limits.most_bytes / 2**20:,.0f} MB, the limit")


def _copy(
    address: str,
    response: http.client.HTTPResponse,
    file: BinaryIO,
    limits: Limits,
    progress: Progress | None,
) -> None:
    total, done = response.length, 0  # None where the server sends it in chunks
    while data := response.read1(_CHUNK):
        done += len(data)
        if done > limits.most_bytes:
            raise _too_long(address, limits)
        file.write(data)
        if progress is not None:
            progress(done, total)
    if done < (total or 0) or not done:
        missing = math.inf if total is None else total - done
        raise VideoError(f"{address}: cut short on the way ({missing:g} bytes are missing); try again")
