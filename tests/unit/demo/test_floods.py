"""The page as a process, flooded: its memory stays, others are answered, nothing is logged."""

from __future__ import annotations

import contextlib
import signal
import socket
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest

from adatp.demo.gate import ASK, UPLOAD
from adatp.demo.visitors import MOST_OF_ONE
from adatp.tiny import CLIP, QUESTION
from demo_page import Page

pytestmark = [
    pytest.mark.enable_socket,
    pytest.mark.slow,
    pytest.mark.skipif(sys.platform != "linux", reason="asks /proc, and calls from 127.0.0.2"),
]
GROWTH = 150
"""Megabytes that a flood may add at its peak. One body of those below, held in memory, is 250."""
BODY, PIECE = 250 << 20, bytes(1 << 20)


class Guest:
    """Whoever asks the page from an address of its own."""

    def __init__(self, page: Page, address: str) -> None:
        self.page = page
        transport = httpx.HTTPTransport(local_address=address)
        self.client = httpx.Client(base_url=page.address, transport=transport, timeout=120)

    def join(self, session: str) -> int:
        """Ask about the page's first example; the status."""
        [clip] = self.page.folder.glob(f"adatp-demo-*/{CLIP.name}")
        file = {"path": str(clip), "meta": {"_type": "gradio.FileData"}}
        call = {"data": [file, QUESTION, 27.3, 4, ["adatp"]], "fn_index": 1, "session_hash": session}
        return self.client.post(ASK, json=call).status_code

    def answered(self, session: str) -> bool:
        """Whether a question that was taken is answered."""
        text = self.client.get("/gradio_api/queue/data", params={"session_hash": session}).text
        return '"success":true' in text and "<h3>adatp" in text.encode().decode("unicode_escape")


@pytest.fixture
def page(tmp_path: Path) -> Iterator[Page]:
    page = Page(tmp_path / "tmp")
    yield page
    code, printed = page.stop(signal.SIGTERM)
    assert (code, printed) == (0, "")


def large_body(guest: Guest) -> int:
    """Send far more than a question has; the status, or 413 if the page hung up meanwhile."""
    pieces = (PIECE for _ in range(BODY // len(PIECE)))
    with contextlib.suppress(httpx.TransportError):
        return guest.client.post(ASK, content=pieces).status_code
    return 413


def broken_off(page: Page, size: int = 8 << 20) -> None:
    """Announce an upload of twice the bytes that come, and leave."""
    parts = urlsplit(page.address)
    with socket.create_connection((parts.hostname, parts.port)) as connection:
        head = (
            f"POST {UPLOAD} HTTP/1.1\r\nHost: {parts.netloc}\r\nContent-Length: {2 * size}\r\n"
            "Content-Type: multipart/form-data; boundary=b0\r\n\r\n"
            '--b0\r\nContent-Disposition: form-data; name="files"; filename="a.mp4"\r\n\r\n'
        )
        connection.sendall(head.encode())
        with contextlib.suppress(OSError):
            connection.sendall(bytes(size))


def garbage(page: Page, number: int) -> None:
    """Bytes that are no request."""
    parts = urlsplit(page.address)
    with socket.create_connection((parts.hostname, parts.port), timeout=60) as connection:
        connection.sendall((b"\x00\xff" * 5000, b"GET / HTTP/9\r\n\r\n", b"POST", b"\r\n" * 9)[number % 4])
        connection.shutdown(socket.SHUT_WR)
        with contextlib.suppress(OSError):
            while connection.recv(1 << 16):
                pass


def test_floods_leave_memory_as_it_was_and_others_are_answered(page: Page) -> None:
    crowd, user = Guest(page, "127.0.0.1"), Guest(page, "127.0.0.2")
    assert crowd.join("first") == 200
    assert crowd.answered("first")
    before = page.megabytes("VmRSS")
    found: dict[str, list[Any]] = {}
    with ThreadPoolExecutor(24) as pool:
        bodies = pool.map(large_body, [crowd] * 12)
        uploads = pool.map(broken_off, [page] * 24)
        joins = pool.map(crowd.join, [f"crowd{number}" for number in range(300)])
        noise = pool.map(garbage, [page] * 60, range(60))
        taken = user.join("user")
        answered = user.answered("user")
        found = {"bodies": [*bodies], "joins": [*joins], "rest": [*uploads, *noise]}
    assert {*found["bodies"]} == {413}
    assert {*found["joins"]} == {200, 503}
    assert found["joins"].count(503) > 300 - 10 * MOST_OF_ONE
    assert (taken, answered) == (200, True)
    assert crowd.client.get("/theme.css").status_code == 200
    assert page.megabytes("VmHWM") - before < GROWTH
