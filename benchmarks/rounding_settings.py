"""How near to their limits comparisons of numbers come, under settings that round differently.

Runs a part of the suite once for each setting (tests/support/margins.py chooses it) and prints, for every
test, the smallest ratio of limit to error that any setting has shown. Ends with an error if a ratio is less
than five. What a setting asks for and the processor lacks is left out by torch itself.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
from collections import defaultdict
from pathlib import Path

import torch

ROOT = Path(__file__).parents[1]
SETTINGS: dict[str, dict[str, str]] = {
    "as it is": {},
    "default": {"ATEN_CPU_CAPABILITY": "default"},
    "avx2": {"ATEN_CPU_CAPABILITY": "avx2"},
    "avx512": {"ATEN_CPU_CAPABILITY": "avx512"},
    "two threads": {"TEST_THREADS": "2", "OMP_WAIT_POLICY": "PASSIVE"},  # or a busy machine stands still
    "no oneDNN": {"TEST_ONEDNN": "0"},
    "old MKL": {"MKL_CBWR": "COMPATIBLE"},
    "all at once": {
        "ATEN_CPU_CAPABILITY": "default",
        "TEST_THREADS": "2",
        "OMP_WAIT_POLICY": "PASSIVE",
        "TEST_ONEDNN": "0",
        "MKL_CBWR": "COMPATIBLE",
    },
}
TESTS = [
    *("tests/conformance", "tests/unit/engine", "tests/unit/test_bias.py", "tests/unit/test_encoders.py"),
    *("tests/unit/test_frame_reuse.py", "tests/docs/test_readme.py"),
]
LEAST = 5.0
Found = dict[str, list[float]]
"""By test and kind of comparison: error / limit, error, limit."""


def measure(setting: dict[str, str], tests: list[str], families: str = "") -> tuple[Found, str]:
    """Run the tests; what came near, and pytest's last line."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "margins.json"
        paths = [str(ROOT / "tests" / "support"), *filter(None, [os.environ.get("PYTHONPATH")])]
        more = {"MARGINS": str(file), "MARGINS_SUBSET": "1", "MARGINS_FAMILIES": families}
        more["PYTHONPATH"] = os.pathsep.join(paths)
        command = [sys.executable, "-m", "pytest", "-q", "-p", "margins", "-p", "no:cacheprovider", *tests]
        done = subprocess.run(
            command, cwd=ROOT, env=os.environ | more | setting, capture_output=True, text=True, check=False
        )
        last = (done.stdout.strip().splitlines() or [done.stderr.strip()[-200:]])[-1]
        return (json.loads(file.read_text()) if file.exists() else {}), last


def table(found: dict[str, Found]) -> tuple[list[str], float]:
    """A line a test and kind of comparison, the nearest first, and the smallest ratio of limit to error."""
    rows: dict[str, dict[str, list[float]]] = defaultdict(dict)
    for setting, comparisons in found.items():
        for key, margin in comparisons.items():
            test, _, kind = re.sub(r"\[.*\]", "", key).partition(" ")
            row = rows[f"{test.rpartition('::')[2]} ({kind})"]
            row[setting] = max(row.get(setting, [0.0]), margin)
    worst = {name: max(row.values()) for name, row in rows.items()}
    lines = [f"{'limit/error':>11}  {'error':>8}  {'limit':>8}  of"]
    for name, (share, error, limit) in sorted(worst.items(), key=lambda each: -each[1][0]):
        ratio = f"{1 / share:11.1f}" if share else f"{'exact':>11}"
        lines.append(f"{ratio}  {error:8.1e}  {limit:8.1e}  {name}")
    return lines, 1 / max([share for share, *_ in worst.values() if share], default=1e-9)


def main() -> int:
    """Measure all settings, print the table, and say whether every limit is far enough."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--settings", default=",".join(SETTINGS), help="names, separated by commas")
    parser.add_argument("--families", default="", help="names, separated by commas; all of them if left out")
    parser.add_argument("--json", type=Path, help="write every margin there as well")
    parser.add_argument("tests", nargs="*", default=TESTS, help="files or folders of tests")
    asked = parser.parse_args()
    print(f"{torch.backends.cpu.get_cpu_capability()}, torch {torch.__version__}", flush=True)
    found, red = {}, False
    for name in asked.settings.split(","):
        found[name], last = measure(SETTINGS[name], asked.tests, asked.families)
        red = red or "passed" not in last or "failed" in last or "error" in last
        share = max((margin for margin in found[name].values()), default=[0.0])
        print(f"{name:12} {last}; the smallest limit/error {1 / max(share[0], 1e-9):.1f}", flush=True)
    lines, smallest = table(found)
    print(*lines, sep="\n")
    if asked.json:
        asked.json.write_text(json.dumps(found, indent=1) + "\n")
    return int(red or smallest < LEAST)


if __name__ == "__main__":
    sys.exit(main())
