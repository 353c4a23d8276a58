"""`adatp run` over 200 clips, killed 20 times at random moments, against a run that nobody disturbs.

    python benchmarks/run_kills.py [--clips 200] [--kills 20] [--seed 0] [--json FILE]

One question or more a clip, a corrupt, an empty and a missing video among them, some rows with settings of
their own. A kill is SIGKILL to the process. One half of the kills come at a moment drawn uniformly from its
start and its share of the work that is left, the other half once as many rows are on disk as are drawn from
that share. Then: the output equals the undisturbed one but for times and batches; every answer that was on
disk at a kill stands unchanged in the output, so that nothing was lost and nothing asked twice.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from adatp.run import TIMES
from run_clips import break_some, write_clips, write_rows

COMMAND = [sys.executable, "-c", "import sys; from adatp.cli import main; sys.exit(main())", "run"]


def write_input(folder: Path, clips: int) -> Path:
    """Clips, broken ones among them, and rows that ask about them."""
    rows: list[dict[str, Any]] = []
    for number, questions in enumerate(write_clips(folder / "clips", clips)):
        for question in questions[: 1 + number % 2]:
            rows.append({"id": f"q{len(rows)}", "video": f"clips/{number:04d}.mp4", "question": question})
        if number % 7 == 0:
            rows[-1] |= {"method": "random", "flops": 0.5}
        if number % 5 == 0:
            rows[-1] |= {"frames": 8, "max_new_tokens": 4}
    for quarter, name in enumerate(break_some(folder / "clips"), 1):
        place = quarter * len(rows) // 4
        rows.insert(place, {"id": name, "video": f"clips/{name}", "question": "what colour is the star ?"})
    return write_rows(folder / "rows.jsonl", rows)


def lines_in(out: Path) -> dict[int, str]:
    """The answers that are on disk, by row: complete lines of parts that are complete or not."""
    while True:
        found: dict[int, str] = {}
        try:
            for file in sorted(out.glob("part-*.jsonl"), key=lambda file: ".work" in file.name, reverse=True):
                for line in file.read_text().split("\n")[:-1]:
                    found[json.loads(line)["row"]] = line
            return found
        except FileNotFoundError:  # it has got its final name just now
            continue


def compared(lines: dict[int, str]) -> list[dict[str, Any]]:
    """What two runs of the same rows have in common."""
    rows = [json.loads(lines[number]) for number in sorted(lines)]
    return [{name: value for name, value in row.items() if name not in TIMES} for row in rows]


def started(rows: Path, out: Path, options: list[str]) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [*COMMAND, str(rows), "--out", str(out), *options],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        start_new_session=True,
    )


def run_to_end(rows: Path, out: Path, options: list[str]) -> tuple[int, float]:
    """Exit code and seconds of a run that goes to its end."""
    began = time.monotonic()
    process = started(rows, out, options)
    _, said = process.communicate()
    if process.returncode not in (0, 1):
        sys.exit(f"the run failed: {said.decode()}")
    return process.returncode, time.monotonic() - began


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--clips", type=int, default=200)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    dice = random.Random(args.seed)
    options = ["--rows-per-file", "64", "--batch", "8", "--workers", "1"]
    with tempfile.TemporaryDirectory() as folder:
        rows = write_input(Path(folder), args.clips)
        count = len(rows.read_text().splitlines())
        calm, disturbed = Path(folder, "calm"), Path(folder, "disturbed")
        code, seconds = run_to_end(rows, calm, options)
        started_up = run_to_end(rows, calm, options)[1]  # everything is done: what is left is starting
        print(f"undisturbed: {count} rows in {seconds:.0f} s, exit code {code}; starting {started_up:.0f} s")
        noted: dict[int, str] = {}
        kills = early = 0
        while kills < args.kills:
            # Of the work that is left, about as much in each run to come; the start takes its own time.
            left = (seconds - started_up) * (1 - len(noted) / count)
            moment = dice.uniform(0, 2 * started_up + 2 * left / (args.kills - kills + 1))
            most = len(noted) + dice.randrange(1 + 2 * (count - len(noted)) // (args.kills - kills + 1))
            if kills % 2:  # surely amid the work
                moment = 10 * (seconds + started_up)
            process = started(rows, disturbed, options)
            began = time.monotonic()
            while time.monotonic() - began < moment and len(lines_in(disturbed)) <= most:
                time.sleep(dice.uniform(0, 0.05))
                if process.poll() is not None:
                    break
            moment = time.monotonic() - began
            if process.poll() is not None:
                sys.exit(f"the run ended before kill {kills + 1}: more clips are needed")
            os.kill(process.pid, signal.SIGKILL)
            process.communicate()
            kills += 1
            there = lines_in(disturbed)
            lost = [number for number, line in noted.items() if there.get(number) != line]
            early += len(there) == len(noted)
            print(
                f"kill {kills} after {moment:.1f} s: {len(there)} rows on disk, lost or changed: {len(lost)}"
            )
            if lost:
                sys.exit(f"rows {lost} were lost or asked twice")
            noted = there
        again = run_to_end(rows, disturbed, options)[0]
        found = lines_in(disturbed)
        changed = [number for number, line in noted.items() if found.get(number) != line]
        equal = compared(found) == compared(lines_in(calm))
        files = sorted(file.name for file in disturbed.iterdir())
        facts = {
            "rows": count,
            "clips": args.clips,
            "kills": kills,
            "kills_without_a_new_row": early,
            "rows_before_the_last_run": len(noted),
            "lost_or_asked_twice": len(changed),
            "exit_codes": [code, again],
            "failed_rows": sum(row["error"] is not None for row in compared(found)),
            "same_files": files == sorted(file.name for file in calm.iterdir()),
            "equal_to_the_undisturbed_run": equal,
        }
    print(json.dumps(facts, indent=1))
    if args.json is not None:
        args.json.write_text(json.dumps(facts, indent=1) + "\n")
    if not equal or changed or code != again or not facts["same_files"]:
        sys.exit("the output is another one")


if __name__ == "__main__":
    main()
