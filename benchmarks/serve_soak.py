"""`adatp serve` under load for a long time: is every answer given and right, and does memory stay as it is?

Clients on this machine ask it all at once: short and long answers, streamed or not, drawn or greedy, by
several methods. Some hang up amid an answer, some send what is refused. Every request whose answer is waited
for has to get the one that it got alone, before the load began.

Memory is the resident set of the server. Under load it goes up and down with the batches, by several percent.
So the clients rest five times. What counts is the growth from the first rest, after a fifth of the time, to
the last.

    python benchmarks/serve_soak.py --minutes 20 --json soak.json
"""

from __future__ import annotations

import argparse
import base64
import json
import random
import signal
import statistics
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
from rich.console import Console
from rich.table import Table

from adatp.tiny import CLIP
from measure import machine

CLIP_URL = "data:video/mp4;base64," + base64.b64encode(CLIP.read_bytes()).decode()
QUESTIONS = ("what colour is the star ?", "what is the last thing ?", "where is the star ?")
RESTS = (0.2, 0.4, 0.6, 0.8)
"""When the clients rest, in shares of the time, besides the end. The time before the first is warm-up."""

REST = 25.0
"""Seconds of a rest, in which the server gives back what is free."""


def request(question: str, frames: int, **fields: Any) -> dict[str, Any]:
    content = [
        {"type": "video_url", "video_url": {"url": CLIP_URL}},
        {"type": "text", "text": question},
    ]
    return {"messages": [{"role": "user", "content": content}], "frames": frames, **fields}


def good() -> list[dict[str, Any]]:
    """Requests whose answers are known: of mixed lengths, methods and frames."""
    methods: list[dict[str, Any]] = [
        {},
        {"flops": 0.1},
        {"method": "vanilla"},
        {"method": "fastv", "flops": 0.4},
    ]
    found = []
    for number, chosen in enumerate(methods):
        question, frames, length = QUESTIONS[number % 3], (4, 8)[number % 2], (40, 12, 2, 24)[number]
        drawn = {"temperature": 1.0, "top_p": 0.95, "seed": number, "n": 1 + number % 2}
        found.append(request(question, frames, **chosen))
        found.append(request(question, frames, **chosen, ignore_eos=True, max_tokens=length))
        found.append(request(question, frames, **chosen, **drawn, ignore_eos=True, max_tokens=length))
    return found


def cut_short() -> dict[str, Any]:
    """A request with half a video."""
    body = request("what ?", 4)
    half = base64.b64encode(CLIP.read_bytes()[:20_000]).decode()
    body["messages"][0]["content"][0]["video_url"]["url"] = f"data:video/mp4;base64,{half}"
    return body


BAD: list[tuple[dict[str, Any], int]] = [
    (request("what ?", 4, flops=1e-6), 400),
    (request("what ?", 4, method="nothing"), 400),
    (request("what is <video> ?", 4), 400),
    ({"messages": [{"role": "user", "content": "no video"}]}, 400),
    (request("what ?", 4, model="another"), 404),
    ({"messages": "x" * 100_000}, 400),
    (cut_short(), 400),
]


@dataclass
class Tally:
    """What became of the requests, by all clients."""

    counts: Counter[str] = field(default_factory=Counter)
    seconds: list[float] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def add(self, what: str, seconds: float | None = None, wrong: str | None = None) -> None:
        with self.lock:
            self.counts[what] += 1
            if seconds is not None:
                self.seconds.append(seconds)
            if wrong is not None:
                self.wrong.append(wrong)


def texts_of(answer: httpx.Response, count: int) -> list[str]:
    """The texts of an answer, streamed or not."""
    if "event-stream" not in answer.headers["content-type"]:
        return [choice["message"]["content"] for choice in answer.json()["choices"]]
    texts = [""] * count
    events = [line[6:] for line in answer.text.split("\n\n") if line]
    assert events[-1] == "[DONE]", events[-1]
    for event in events[:-1]:
        [choice] = json.loads(event)["choices"]
        texts[choice["index"]] += choice["delta"].get("content", "")
    return texts


class Client:
    """One client that asks, one request after the other, until it is time."""

    def __init__(
        self,
        address: str,
        known: list[tuple[dict[str, Any], list[str]]],
        tally: Tally,
        going: threading.Event,
        seed: int,
    ) -> None:
        """A client that asks while ``going`` is set."""
        self.url, self.known, self.tally = f"{address}/v1/chat/completions", known, tally
        self.going = going
        self.chance = random.Random(seed)
        self.http = httpx.Client(timeout=1800)

    def run(self, until: float) -> None:
        while self.going.wait() and time.monotonic() < until:
            kind = self.chance.choices(("asked", "streamed", "hung up", "refused"), (45, 30, 15, 10))[0]
            try:
                {"hung up": self.hang_up, "refused": self.be_refused}.get(kind, self.ask)(kind)
            except Exception as error:
                self.tally.add("lost", wrong=f"{kind}: {error!r}"[:300])
        self.http.close()

    def ask(self, kind: str) -> None:
        body, expected = self.chance.choice(self.known)
        begun = time.monotonic()
        while True:
            answer = self.http.post(self.url, json=body | {"stream": kind == "streamed"})
            if answer.status_code != 429:
                break
            self.tally.add("busy, asked again")
            time.sleep(0.2)
        found = texts_of(answer, len(expected)) if answer.status_code == 200 else [answer.text]
        self.tally.add(
            kind if found == expected else "wrong",
            time.monotonic() - begun,
            None if found == expected else f"{found} instead of {expected}"[:300],
        )

    def hang_up(self, kind: str) -> None:
        body = request(self.chance.choice(QUESTIONS), 8, ignore_eos=True, max_tokens=1000, stream=True)
        wait = self.chance.random()
        try:
            with httpx.stream("POST", self.url, json=body, timeout=wait) as answer:
                for number, _ in enumerate(answer.iter_bytes()):
                    if number > 20 * wait:
                        break
        except httpx.TimeoutException:
            pass
        self.tally.add(kind)

    def be_refused(self, kind: str) -> None:
        body, status = self.chance.choice(BAD)
        answer = self.http.post(self.url, json=body)
        if answer.status_code not in (status, 429):
            raise ValueError(f"{answer.status_code} {answer.text[:200]}")
        self.tally.add(kind)


def resident(pid: int) -> float:
    """Megabytes."""
    status = Path(f"/proc/{pid}/status").read_text()
    [line] = [line for line in status.splitlines() if line.startswith("VmRSS:")]
    return int(line.split()[1]) / 1024


def left_over(address: str, seconds: float) -> list[str]:
    """Places and answers that are still taken after some seconds; none as soon as all are free."""
    until = time.monotonic() + seconds
    while True:
        metrics = httpx.get(f"{address}/metrics", timeout=60).text.splitlines()
        counts = [
            line for line in metrics if line.startswith(("adatp_requests_taken", "adatp_answers_running"))
        ]
        left = [line for line in counts if float(line.split()[1])]
        if not left or time.monotonic() > until:
            return left
        time.sleep(0.1)


class Memory:
    """The server's memory over time.

    Attributes:
        series: seconds since it began, and megabytes.
        at_rest: megabytes in each rest.
    """

    def __init__(self, pid: int, tally: Tally) -> None:
        self.pid, self.tally, self.begun = pid, tally, time.monotonic()
        self.series: list[tuple[float, float]] = []
        self.at_rest: list[float] = []

    def watch(self, going_on: Callable[[], bool]) -> None:
        """Note it every two seconds."""
        while going_on():
            self.series.append((time.monotonic() - self.begun, resident(self.pid)))
            if len(self.series) % 30 == 0:
                done, lost = (
                    sum(self.tally.counts.values()),
                    self.tally.counts["lost"] + self.tally.counts["wrong"],
                )
                second, megabytes = self.series[-1]
                print(f"{second:.0f} s: {done} requests, {lost} lost, {megabytes:.1f} MB", file=sys.stderr)
            time.sleep(2)

    def rest(self, address: str, seconds: float) -> None:
        """Note it while nothing is asked; ``seconds`` are those that running answers have to end."""
        if left := left_over(address, seconds):
            self.tally.add("lost", wrong=f"places are not free: {left}")
        time.sleep(REST)
        self.at_rest.append(resident(self.pid))
        print(f"at rest: {self.at_rest[-1]:.1f} MB", file=sys.stderr)


def soak(process: subprocess.Popen[str], address: str, minutes: float, clients: int) -> dict[str, Any]:
    """Ask a server for some minutes."""
    tally, going = Tally(), threading.Event()
    bodies = good()
    alone = [httpx.post(f"{address}/v1/chat/completions", json=body, timeout=1800) for body in bodies]
    known = [(body, texts_of(answer, 0)) for body, answer in zip(bodies, alone, strict=True)]
    memory = Memory(process.pid, tally)
    until = memory.begun + 60 * minutes
    threads = [
        threading.Thread(target=Client(address, known, tally, going, seed).run, args=(until,))
        for seed in range(clients)
    ]
    going.set()
    for thread in threads:
        thread.start()
    for share in RESTS:
        rest_at = memory.begun + share * 60 * minutes
        memory.watch(lambda rest_at=rest_at: time.monotonic() < rest_at)  # type: ignore[misc]
        going.clear()
        memory.rest(address, 600)
        going.set()
    memory.watch(lambda: any(thread.is_alive() for thread in threads))
    memory.rest(address, 5)  # what was given up ends at its next token
    return {
        "minutes": minutes,
        "clients": clients,
        "requests": dict(sorted(tally.counts.items())),
        "lost": tally.counts["lost"] + tally.counts["wrong"],
        "wrong": tally.wrong[:20],
        "median_seconds": statistics.median(tally.seconds),
        "p95_seconds": statistics.quantiles(tally.seconds, n=20)[-1],
        "memory_at_rest": [round(megabytes, 1) for megabytes in memory.at_rest],
        "memory_growth": memory.at_rest[-1] / memory.at_rest[0] - 1,
        "memory": [[round(second), round(megabytes, 1)] for second, megabytes in memory.series[::15]],
        "machine": machine(),
    }


def show(result: dict[str, Any]) -> None:
    table = Table(title=f"{result['minutes']:g} minutes, {result['clients']} clients")
    table.add_column("")
    table.add_column("", justify="right")
    for name, count in result["requests"].items():
        table.add_row(f"requests: {name}", f"{count:,}")
    table.add_row("lost or wrong", f"{result['lost']}")
    table.add_row(
        "answer, median and 95 %", f"{result['median_seconds']:.2f} s, {result['p95_seconds']:.2f} s"
    )
    table.add_row(
        "memory at rest, MB", ", ".join(f"{megabytes:.0f}" for megabytes in result["memory_at_rest"])
    )
    table.add_row("memory, growth", f"{result['memory_growth']:+.2%}")
    Console().print(table)
    for line in result["wrong"]:
        print(line, file=sys.stderr)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=20)
    parser.add_argument("--clients", type=int, default=8)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    command = [sys.executable, "-c", "import sys; from adatp.cli import main; sys.exit(main())", "serve"]
    arguments = ["--port", "0", "--device", "cpu", "--max-requests", "12", "--media-seconds", "600"]
    with subprocess.Popen([*command, *arguments], stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            address = process.stdout.readline().strip().removesuffix("/v1")
            result = soak(process, address, options.minutes, options.clients)
        finally:
            process.send_signal(signal.SIGTERM)
            code = process.wait(600)
    result["exit_code"] = code
    show(result)
    if options.json is not None:
        options.json.write_text(json.dumps(result, indent=1) + "\n")
    return 0 if not result["lost"] and result["memory_growth"] < 0.01 and code == 0 else 1


if __name__ == "__main__":
    sys.exit(main())
