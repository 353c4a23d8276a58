"""A web server that does what it should not, on one of this machine's own addresses."""

from __future__ import annotations

import gzip
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, urlsplit

from adatp.tiny import CLIP


class Evil(BaseHTTPRequestHandler):
    """Its path says what it does.

    Attributes:
        asked: the paths that were asked for.
    """

    asked: list[str]

    def log_message(self, *_: object) -> None:
        pass

    def do_GET(self) -> None:
        self.asked.append(self.path)
        parts = urlsplit(self.path)
        with suppress(OSError):  # who asks hangs up
            getattr(self, parts.path.strip("/").partition(".")[0])(
                {k: v[0] for k, v in parse_qs(parts.query).items()}
            )

    def _give(self, data: bytes, status: int = 200, length: int | None = None, **headers: str) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.send_header("Content-Length", str(len(data) if length is None else length))
        self.end_headers()
        self.wfile.write(data)

    def clip(self, _: dict[str, str]) -> None:
        self._give(CLIP.read_bytes())

    def to(self, query: dict[str, str]) -> None:
        self._give(b"", int(query.get("status", "302")), Location=query["url"])

    def loop(self, _: dict[str, str]) -> None:
        self._give(b"", 302, Location="/loop")

    def nowhere(self, _: dict[str, str]) -> None:
        self._give(b"", 302)

    def gone(self, _: dict[str, str]) -> None:
        self._give(b"<p>not here", 404)

    def html(self, _: dict[str, str]) -> None:
        self._give(b"<!doctype html><p>log in first", Content_Type="text/html")

    def empty(self, _: dict[str, str]) -> None:
        self._give(b"")

    def cut(self, _: dict[str, str]) -> None:
        self._give(CLIP.read_bytes()[:1000], length=5000)

    def packed(self, _: dict[str, str]) -> None:
        self._give(gzip.compress(bytes(1 << 24)), Content_Encoding="gzip")

    def announces(self, _: dict[str, str]) -> None:
        self._give(b"", length=4 << 30)

    def endless(self, _: dict[str, str]) -> None:
        self.send_response(200)
        self.end_headers()
        for _ in range(1 << 12):
            self.wfile.write(bytes(1 << 16))

    def drips(self, _: dict[str, str]) -> None:
        self.send_response(200)
        self.end_headers()
        for _ in range(600):
            self.wfile.write(b"x")
            time.sleep(0.1)

    def heads(self, _: dict[str, str]) -> None:
        self.wfile.write(b"HTTP/1.1 200 OK\r\n")
        for number in range(600):
            self.wfile.write(b"x-%d: y\r\n" % number)
            time.sleep(0.1)

    def continues(self, _: dict[str, str]) -> None:
        for _ in range(600):
            self.wfile.write(b"HTTP/1.1 100 Continue\r\n\r\n")
            time.sleep(0.1)

    def rubbish(self, _: dict[str, str]) -> None:
        self.wfile.write(b"\x00\xff" * 100)


@contextmanager
def evil_web(host: str) -> Iterator[tuple[int, list[str]]]:
    """Its port, and the paths that it is asked for."""
    asked: list[str] = []
    server = ThreadingHTTPServer((host, 0), type("Asked", (Evil,), {"asked": asked}))
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    try:
        yield server.server_address[1], asked
    finally:
        server.shutdown()
        server.server_close()
