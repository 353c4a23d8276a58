"""`adatp serve` under load for a long time: is every answer given and right, and does memory stay as it is?

Clients on this machine ask it all at once: short and long answers, streamed or not, drawn or greedy, by
several methods. Some hang up amid an answer, some send what is refused. Every request whose answer is waited
for has to get the one that it got alone, before the load began. Memory is the resident set of the server. It
grows from the median of the first tenth of the time after the warm-up to that of the last tenth.

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
WARM_UP = 0.2
"""Share of the time that is warm-up."""


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

    def __init__(self, address: str, known: list[tuple[dict[str, Any], list[str]]], tally: Tally, seed: int):
        self.url, self.known, self.tally = f"{address}/v1/chat/completions", known, tally
        self.chance = random.Random(seed)
        self.http = httpx.Client(timeout=1800)

    def run(self, until: float) -> None:
        while time.monotonic() < until:
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


def soak(process: subprocess.Popen[str], address: str, minutes: float, clients: int) -> dict[str, Any]:
    """Ask a server for some minutes."""
    tally, memory = Tally(), []
    bodies = good()
    alone = [httpx.post(f"{address}/v1/chat/completions", json=body, timeout=1800) for body in bodies]
    known = [(body, texts_of(answer, 0)) for body, answer in zip(bodies, alone, strict=True)]
    begun = time.monotonic()
    until = begun + 60 * minutes
    threads = [
        threading.Thread(target=Client(address, known, tally, seed).run, args=(until,))
        for seed in range(clients)
    ]
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        memory.append((time.monotonic() - begun, resident(process.pid)))
        if len(memory) % 30 == 0:
            done, lost = sum(tally.counts.values()), tally.counts["lost"] + tally.counts["wrong"]
            print(
                f"{memory[-1][0]:.0f} s: {done} requests, {lost} lost, {memory[-1][1]:.1f} MB",
                file=sys.stderr,
            )
        time.sleep(2)
    for _ in range(50):  # what was given up ends at its next token
        metrics = httpx.get(f"{address}/metrics", timeout=60).text
        left = [
            line
            for line in metrics.splitlines()
            if line.startswith(("adatp_requests_taken", "adatp_answers_r"))
        ]
        if all(float(line.split()[1]) == 0 for line in left):
            break
        time.sleep(0.1)
    else:
        tally.add("lost", wrong=f"places are not free at the end: {left}")
    return {
        "minutes": minutes,
        "clients": clients,
        "requests": dict(sorted(tally.counts.items())),
        "lost": tally.counts["lost"] + tally.counts["wrong"],
        "wrong": tally.wrong[:20],
        "median_seconds": statistics.median(tally.seconds),
        "p95_seconds": statistics.quantiles(tally.seconds, n=20)[-1],
        **growth(memory),
        "memory": [[round(second), round(megabytes, 1)] for second, megabytes in memory[::15]],
        "machine": machine(),
    }


def growth(memory: list[tuple[float, float]]) -> dict[str, float]:
    """Resident memory after the warm-up and at the end, in megabytes, and the growth between them."""
    after = [megabytes for second, megabytes in memory if second >= WARM_UP * memory[-1][0]]
    tenth = max(1, len(after) // 10)
    first, last = statistics.median(after[:tenth]), statistics.median(after[-tenth:])
    return {"memory_warm": first, "memory_end": last, "memory_growth": last / first - 1}


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
        "memory, warm and at the end", f"{result['memory_warm']:.0f}, {result['memory_end']:.0f} MB"
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
