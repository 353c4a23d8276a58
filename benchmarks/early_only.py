"""Accuracy of what a server such as vLLM can do, `AdaTP(early="only")`, beside the complete method.

Run: python benchmarks/early_only.py [--questions 240] [--minutes 9]

Both answer the questions of world 2 at equal FLOPs, with the second embedded model. The work file is
docs/results/scenes/early-only.work.jsonl: stopped, it goes on. The table goes into docs/vllm.md.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path

import proof
import proof_tables
import tune
from adatp import AdaTP, Session
from adatp.errors import AdaTPError
from adatp.evaluation import Entrant, entrants
from result_tables import ROOT, written

PAGE = ROOT / "docs" / "vllm.md"
TARGETS = (0.273, 0.15, 0.10, 0.05)
FRAMES = (16,)


def who() -> list[Entrant]:
    """Vanilla, the complete method, both choices that the plugin of vLLM has, and evenly spaced frames."""
    made = entrants(["adatp"], TARGETS)
    for label, relevance in (
        ("early only, by what is new", "none"),
        ("early only, by question", "embedding"),
    ):
        for target in TARGETS:
            made.append(Entrant(label, AdaTP(flops=target, early="only", relevance=relevance)))  # type: ignore[arg-type]
    return [*made, *entrants(["uniform_frames"], TARGETS)[1:]]


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--model", default="scenes", help="folder of a checkpoint, or an embedded model")
    parser.add_argument("--questions", type=int, default=240)
    parser.add_argument("--batch", type=int, default=1, help="questions asked together")
    parser.add_argument("--minutes", type=float, help="stop after so many, to go on another time")
    parser.add_argument("--out", type=Path, default=proof_tables.RESULTS)
    parser.add_argument("--page", type=Path, default=PAGE)
    args = parser.parse_args()
    until = None if args.minutes is None else time.monotonic() + 60 * args.minutes
    part = proof.Part("early-only", args.questions, FRAMES, "test", lambda *_: who())
    try:
        proof.run(Session(args.model), part, who(), args.out, until, args.batch)
    except AdaTPError as error:
        sys.exit(f"early_only: {error}")
    except (KeyboardInterrupt, tune.TimeIsUp):
        sys.exit("early_only: stopped; run it again to go on")
    data = json.loads((args.out / "early-only.json").read_text())
    args.page.write_text(written(args.page.read_text(), "early-only", proof_tables.best(data)))


if __name__ == "__main__":
    main()
