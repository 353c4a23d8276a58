"""Tunes each method's own parameters on the split `validation`, once, and writes what won.

Run: python benchmarks/tune.py --world scenes --json docs/results/tuned.json

Stop it and run it again: it goes on. `adatp eval --settings docs/results/tuned.json` uses what it wrote.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from adatp import Session
from adatp.errors import AdaTPError
from adatp.evaluation import (
    Entrant,
    Results,
    best,
    candidates,
    entrants,
    evaluate,
    summarise,
    tunable,
    world_of,
)

SPLIT = "validation"


class TimeIsUp(Exception):  # noqa: N818
    """A run was to stop by itself."""


def clock(todo: int, until: float | None = None) -> Callable[[str | None], None]:
    """Says on stderr how far it is and how long it will take, once a minute.

    Args:
        todo: answers that are missing.
        until: when to raise `TimeIsUp`, by `time.monotonic`; None: never.
    """
    begun, done, last = time.monotonic(), 0, 0.0

    def progress(skipped: str | None) -> None:
        nonlocal done, last
        if skipped is not None:
            print(f"skipped: {skipped}", file=sys.stderr)
            return
        done, now = done + 1, time.monotonic()
        if until is not None and now > until:
            raise TimeIsUp
        if now - last > 60 or done in (20, todo):
            last = now
            left = (todo - done) * (now - begun) / done / 60
            print(f"{done} of {todo} answers, about {left:.0f} minutes left", file=sys.stderr)

    return progress


def tune(
    session: Session,
    names: list[str],
    targets: list[float],
    lengths: list[int],
    limit: int,
    work: Path,
    until: float | None = None,
    batch: int = 1,
) -> dict[str, Any]:
    """What wins for each method, and all that was tried.

    Args:
        session: of the model.
        names: methods.
        targets: FLOPs as fractions of vanilla.
        lengths: frames of the clips.
        limit: questions of each length.
        work: the work file, from which a run that was stopped goes on.
        until: when to stop, by `time.monotonic`; None: when all is answered.
        batch: questions that are asked together.
    """
    world = world_of(session.processor)
    who: list[Entrant] = entrants([], [])
    for name in names:
        who += candidates(name, targets)
    with Results(work) as results:
        results.pin("command", "tune")
        asked = sum(len(results.answers[each.key, length]) for each in who for length in lengths)
        progress = clock(len(who) * len(lengths) * limit - asked, until)
        evaluate(session, who, lengths, SPLIT, limit, results, progress, world, batch)
        rows, skipped = summarise(results)
        facts = {each.label: each.facts()["settings"] for each in who}
        found = {name: best(name, rows, facts) for name in names}
        pins = {name: value for name, value in results.pins.items() if not name.startswith("run ")}
    return {
        **pins,
        "frames": lengths,
        "targets": targets,
        "tuned": {name: each["settings"] for name, each in found.items() if each["settings"]},
        "methods": found,
        "skipped": skipped,
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", help="folder of a checkpoint, or the name of an embedded model")
    parser.add_argument("--world", default="scenes", help="whose embedded model is asked without --model")
    parser.add_argument("--methods", default="all", help="separated by commas")
    parser.add_argument("--flops", default="0.273,0.1,0.05")
    parser.add_argument("--frames", default="16,32")
    parser.add_argument("--limit", type=int, default=240, help="questions of each length")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--batch", type=int, default=1, help="questions asked together")
    parser.add_argument("--json", type=Path, required=True)
    args = parser.parse_args()
    names = tunable() if args.methods == "all" else args.methods.split(",")
    try:
        session = Session(args.model or args.world, device=args.device)
        found = tune(
            session,
            names,
            [float(target) for target in args.flops.split(",")],
            [int(length) for length in args.frames.split(",")],
            args.limit,
            args.json.with_name(f"{args.json.stem}.work.jsonl"),
            batch=args.batch,
        )
    except AdaTPError as error:
        sys.exit(f"tune: {error}")
    args.json.write_text(json.dumps(found, indent=1) + "\n")
    for name, each in found["methods"].items():
        for label, accuracy in sorted(each["tried"].items(), key=lambda pair: -pair[1]):
            print(f"{label:32} {accuracy:.1%}{'  <' if each['accuracy'] == accuracy else ''}")
        print(f"{name:32} {each['settings'] or 'defaults'}\n")


if __name__ == "__main__":
    main()
