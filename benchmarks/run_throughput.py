"""Rows a second of `adatp run` against a plain loop over a session, and its peak memory by number of rows.

    python benchmarks/run_throughput.py [--clips 24] [--rounds 5] [--questions 1,3] [--json FILE]

The loop is what a user of `adatp.Session` writes: read a video, ask, next. It is given the better of one and
two threads. The run reads the next videos in one worker process, and the model has one thread. Loop and run
take turns over the same rows; the median of the rounds' ratios counts. Both have the model loaded, and the
worker has started. Clips are 20 s of H.264, 480 x 480 at 24 frames a second, of which 16 frames are sampled.

All are seconds a row. `cpu` is processor time, which a busy machine changes less than the clock: its ratio
says what batches and shared videos save, without anything done at the same time. `ratio_if_all_overlaps`
is the loop's against the busier of the run's two processes: what two idle cores would give at best.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from adatp import Session
from adatp.machine import cores, peak_resident
from adatp.run import Answering, Settings
from adatp.run.preparing import units
from adatp.run.rows import Row
from run_clips import write_clips, write_rows
from run_kills import COMMAND

SETTINGS = Settings(frames=16)


def cpu_of(worker: int) -> float:
    """Processor time of another process."""
    fields = Path(f"/proc/{worker}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


@dataclass
class Spent:
    """Seconds a row: of the clock, of this process's processor time, of the worker's."""

    seconds: float
    model: float
    reader: float

    @property
    def cpu(self) -> float:
        return self.model + self.reader


def timed(work: Callable[[], list[str]], worker: int) -> tuple[list[str], Spent]:
    """Answers, and what they took."""
    mine, theirs, began = time.process_time(), cpu_of(worker), time.perf_counter()
    answers = work()
    spent = time.perf_counter() - began, time.process_time() - mine, cpu_of(worker) - theirs
    return answers, Spent(*(each / len(answers) for each in spent))


def compare(session: Session, rows: list[Row], rounds: int, threads: list[int]) -> dict[str, Any]:
    """Loop and run over the same rows, in turns."""

    def loop() -> list[str]:
        return [session.ask(row.video, row.question, frames=SETTINGS.frames).text for row in rows]

    found: dict[str, list[Spent]] = {}
    with Answering(session, batch=8, workers=1) as answering:

        def run() -> list[str]:
            outcomes = {each.row.number: each.facts for each in answering.answer(units(rows, Path()))}
            return [outcomes[row.number]["answer"] for row in rows]

        texts = [run()]
        worker = answering._workers._running[0].pid
        for _ in range(rounds):
            for name, count, work in (*((f"loop, threads: {n}", n, loop) for n in threads), ("run", 1, run)):
                torch.set_num_threads(count)
                answers, spent = timed(work, worker)
                texts.append(answers)
                found.setdefault(name, []).append(spent)
    assert all(answers == texts[0] for answers in texts), "other answers"
    runs = found.pop("run")
    loops = [min(same, key=lambda spent: spent.seconds) for same in zip(*found.values(), strict=True)]
    ratios = [loop.seconds / run.seconds for loop, run in zip(loops, runs, strict=True)]
    middle = statistics.median
    return {
        "rows": len(rows),
        "videos": len({row.video for row in rows}),
        **{f"{name}: seconds": middle(each.seconds for each in same) for name, same in found.items()},
        **{f"{name}: cpu": middle(each.cpu for each in same) for name, same in found.items()},
        "run: seconds": middle(each.seconds for each in runs),
        "run: cpu of the model": middle(each.model for each in runs),
        "run: cpu of the reader": middle(each.reader for each in runs),
        "ratio": middle(ratios),
        "ratios": [round(ratio, 2) for ratio in ratios],
        "cpu_ratio": middle(a.cpu / b.cpu for a, b in zip(loops, runs, strict=True)),
        "ratio_if_all_overlaps": middle(
            a.cpu / max(b.model, b.reader) for a, b in zip(loops, runs, strict=True)
        ),
    }


def peak_megabytes(rows: Path, out: Path) -> float:
    """The largest resident memory of the process that answers, read ten times a second."""
    process = subprocess.Popen(
        [*COMMAND, str(rows), "--out", str(out), "--frames", "16", "--workers", "1", "--rows-per-file", "64"],
        stdout=subprocess.DEVNULL,
    )
    peak = 0
    while process.poll() is None:
        with suppress(OSError):  # it has just ended
            peak = peak_resident(process.pid)
        time.sleep(0.1)
    if process.returncode:
        sys.exit("the run failed")
    return peak / 2**20


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--clips", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--questions", default="1,3", help="questions a video, several numbers by commas")
    parser.add_argument("--threads", default="1,2", help="of the loop; the better one counts")
    parser.add_argument("--memory", default="100,400", help="numbers of rows; nothing: no memory is measured")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    facts: dict[str, Any] = {"cores": cores(), "load": os.getloadavg()[0]}
    session = Session(device="cpu")
    with tempfile.TemporaryDirectory() as folder:
        clips = Path(folder, "clips")
        asked = write_clips(clips, args.clips, 16, scale=5, repeat=30)
        for most in map(int, args.questions.split(",")):
            videos = args.clips // most or 1
            pairs = [(f"{clips}/{n:04d}.mp4", text) for n in range(videos) for text in asked[n][:most]]
            rows = [Row(n, n, video, text, SETTINGS) for n, (video, text) in enumerate(pairs)]
            facts[f"questions a video: {most}"] = compare(
                session, rows, args.rounds, [*map(int, args.threads.split(","))]
            )
            print(f"questions a video: {most}", json.dumps(facts[f"questions a video: {most}"]), flush=True)
        for count in map(int, filter(None, args.memory.split(","))):
            many = [
                {"video": f"clips/{n % args.clips:04d}.mp4", "question": asked[n % args.clips][0]}
                for n in range(count)
            ]
            file = write_rows(Path(folder, f"{count}.jsonl"), many)
            facts[f"peak MB of {count} rows"] = round(peak_megabytes(file, Path(folder, f"out{count}")), 1)
    facts["load_after"] = os.getloadavg()[0]
    print(json.dumps(facts, indent=1))
    if args.json is not None:
        args.json.write_text(json.dumps(facts, indent=1) + "\n")


if __name__ == "__main__":
    main()
