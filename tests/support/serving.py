"""A server of ours for tests: in a thread of the test's process, or as the real command."""

from __future__ import annotations

import base64
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx

from adatp import Session
from adatp.serve.server import build_server
from adatp.serve.settings import Settings

COMMAND = "import sys; from adatp.cli import main; sys.exit(main())"


def data_url(path: Path, kind: str = "video/mp4") -> str:
    """A file as a `data:` URL."""
    return f"data:{kind};base64,{base64.b64encode(path.read_bytes()).decode()}"


def video_part(url: str) -> dict[str, Any]:
    return {"type": "video_url", "video_url": {"url": url}}


def text_part(text: str) -> dict[str, Any]:
    return {"type": "text", "text": text}


def question(url: str, text: str = "what colour is the star ?", **fields: Any) -> dict[str, Any]:
    """The body of a request about one video."""
    return {"messages": [{"role": "user", "content": [video_part(url), text_part(text)]}], **fields}


@contextmanager
def served(session: Session, settings: Settings) -> Iterator[str]:
    """The address of a server in a thread of this process."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        server = build_server(session, settings)
        thread = threading.Thread(target=server.run, args=([listener],), daemon=True)
        thread.start()
        address = f"http://127.0.0.1:{listener.getsockname()[1]}"
        for _ in range(6000):
            if server.started:
                break
            time.sleep(0.01)
        assert server.started
        try:
            yield address
        finally:
            server.should_exit = True
            thread.join(120)
            assert not thread.is_alive()


class Command:
    """``adatp serve`` as a process.

    Attributes:
        process: of the command.
        address: where it serves, without ``/v1``.
    """

    def __init__(
        self, arguments: Sequence[str], environment: Mapping[str, str] | None = None, code: str = COMMAND
    ) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", code, "serve", "--port", "0", "--device", "cpu", *arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, **(environment or {})},
        )
        assert self.process.stdout is not None
        line = self.process.stdout.readline().strip()
        assert line.endswith("/v1"), self.process.communicate()
        self.address = line.removesuffix("/v1")

    def memory(self, what: str = "VmRSS") -> float:
        """Megabytes that the process holds (VmRSS), or held at most (VmHWM)."""
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        [line] = [line for line in status.splitlines() if line.startswith(f"{what}:")]
        return int(line.split()[1]) / 1024

    def heaps(self) -> int:
        """How many heaps the C library of Linux made for threads: each begins at a multiple of its 64 MB."""
        maps = Path(f"/proc/{self.process.pid}/maps")
        lines = maps.read_text().splitlines() if maps.exists() else []
        anonymous = [int(line.partition("-")[0], 16) for line in lines if len(line.split()) == 5]
        return sum(begin % (64 << 20) == 0 for begin in anonymous)

    def stop(self, kind: signal.Signals = signal.SIGTERM, seconds: float = 300) -> tuple[int, str]:
        """Stop it; its exit code and what it wrote on stderr."""
        self.process.send_signal(kind)
        _, err = self.process.communicate(timeout=seconds)
        return self.process.returncode, err


def pieces_of(response: httpx.Response) -> list[dict[str, Any]]:
    """The chunks of a stream that is read already."""
    lines = [line for line in response.text.split("\n\n") if line]
    assert all(line.startswith("data: ") for line in lines)
    assert lines[-1] == "data: [DONE]"
    return [json.loads(line.removeprefix("data: ")) for line in lines[:-1]]


_CLIENT = httpx.Client(verify=False, timeout=60)  # making one reads all certificates


def gauges(address: str, headers: Mapping[str, str] | None = None) -> dict[str, float]:
    """The numbers of /metrics that have no labels."""
    lines = _CLIENT.get(f"{address}/metrics", headers=headers).text.splitlines()
    return {line.split()[0]: float(line.split()[1]) for line in lines if line[0] != "#" and "{" not in line}


def gauge(address: str, name: str, headers: Mapping[str, str] | None = None) -> float:
    """One number of /metrics."""
    return gauges(address, headers)[name]


def until_running(address: str, headers: Mapping[str, str] | None = None) -> None:
    """Wait until the server writes an answer."""
    for _ in range(3000):
        if gauge(address, "adatp_answers_running", headers):
            return
        time.sleep(0.02)
    raise AssertionError("nothing is answered")


def settle(address: str, seconds: float, *names: str) -> float:
    """How long it takes until a server is idle, or until some gauges are zero; fails after some seconds."""
    names = names or ("adatp_requests_taken", "adatp_answers_running")
    begun = time.monotonic()
    while time.monotonic() - begun < seconds:
        found = gauges(address)
        if not any(found[name] for name in names):
            return time.monotonic() - begun
        time.sleep(0.02)
    raise AssertionError(f"still busy after {seconds} s")
