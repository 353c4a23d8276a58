"""Makes every table of world 2: `make results WORLD=scenes`.

Run: python benchmarks/proof.py [--estimate] [--parts best,claim] [--device cuda] [--minutes 9]

Each part has a work file of its own in docs/results/scenes/. Stop it and run it again: it goes on. What is
answered already costs nothing, also if --scale is raised. If a raised --scale changes what the tuning finds,
parts that hold answers of those peers are refused: remove their work files. Once the tuning is there, several
processes may each do other parts, and --parts tables then makes the tables.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

import proof_tables
import tune
from adatp import AdaTP, Session
from adatp.errors import AdaTPError
from adatp.evaluation import (
    Disturbance,
    Entrant,
    Results,
    ablations,
    disturbed,
    entrants,
    evaluate,
    names,
    summarise,
    world_of,
)
from adatp.methods import METHODS

TARGETS = (0.5, 0.273, 0.15, 0.10, 0.05)
LOW = (0.273, 0.10)
DISTURBANCES = ("noise", "pan", "compression", "features")
WORSE = ("none", "relevance:0.5", "relevance:1", "relevance:2", "relevance:4")
LENGTHS = (32,)
"""Frames of the clips in the claim, the comparison and the tuning, as in the paper."""

SHORTER = (16,)
"""Frames of the clips in tables that have many cells: an answer takes half the time."""

MODULES = ("full", "no global debias", "no local debias", "neither", "ranking random", "early only")
"""Variants that say what attention and its debiasing are worth: asked more questions than other variants."""

PEERS = 3
"""The best peers, by either way to rank them (`best_peers`), that are asked as many questions as AdaTP."""

PLAIN = ("adatp", "adatp-paper", "vanilla", "random", "uniform_frames", "uniform_grid")
"""What is no peer: ours, and baselines."""


@dataclass(frozen=True)
class Part:
    """One table's questions.

    Attributes:
        name: of its files.
        limit: questions of each length.
        frames: lengths of the clips.
        split: of the world.
        who: who is asked, from the number of the decoder's layers and what the part "tune" found.
    """

    name: str
    limit: int
    frames: tuple[int, ...]
    split: str
    who: Callable[[int, dict[str, Any]], list[Entrant]]


def best_peers(tuned: dict[str, Any], everywhere: bool = False) -> list[str]:
    """The best peers on `validation`, with their best parameters, the best first.

    Each is compared with AdaTP where both have an answer, as not every peer reaches every target.

    Args:
        tuned: what the part "tune" found.
        everywhere: only those that reach every target that AdaTP reaches.
    """
    ours: dict[str, float] = tuned["methods"]["adatp"]["cells"]
    ahead = {}
    for name, found in tuned["methods"].items():
        shared = found["cells"].keys() & ours.keys()
        if name not in PLAIN and shared and (shared == ours.keys() or not everywhere):
            ahead[name] = fmean(found["cells"][cell] - ours[cell] for cell in shared)
    return sorted(ahead, key=lambda name: -ahead[name])[:PEERS]


def asked(wanted: Sequence[str], targets: Sequence[float], tuned: dict[str, Any]) -> list[Entrant]:
    """Methods by name, the peers with their tuned parameters; AdaTP as it ships."""
    peers = {name: values for name, values in tuned["tuned"].items() if name != "adatp"}
    return entrants(list(wanted), list(targets), peers)


def under(names_of: Sequence[str], competing: Sequence[Entrant]) -> list[Entrant]:
    """The entrants under each disturbance of these names."""
    return disturbed(competing, [Disturbance.named(name) for name in names_of])


def parts(scale: float) -> list[Part]:
    """All parts but the tuning, which comes first.

    Args:
        scale: of the numbers of questions; 1 is what the tables want.
    """

    def of(questions: int) -> int:
        return max(12, round(questions * scale))

    def modules(layers: int, paper: bool = False) -> list[Entrant]:
        return [each for each in ablations(LOW, layers, paper) if each.label in MODULES]

    def rivals(targets: Sequence[float], tuned: dict[str, Any]) -> list[Entrant]:
        return asked((*own, *best_peers(tuned)), targets, tuned)

    def all_rivals(tuned: dict[str, Any]) -> list[Entrant]:
        both = dict.fromkeys((*best_peers(tuned), *best_peers(tuned, everywhere=True)))
        return asked((*own, *both), TARGETS, tuned)

    own = ("adatp", "adatp-paper")
    return [
        Part("claim", of(2000), LENGTHS, "test", lambda _, tuned: asked(own, [0.273], tuned)),
        Part("best", of(1000), LENGTHS, "test", lambda _, tuned: all_rivals(tuned)),
        Part("compare", of(240), LENGTHS, "test", lambda _, tuned: asked(names(), TARGETS, tuned)),
        Part("lengths", of(240), (16, 64), "test", lambda _, tuned: rivals(LOW, tuned)),
        Part("modules", of(480), SHORTER, "test", lambda layers, _: modules(layers)),
        Part("modules-paper", of(480), SHORTER, "test", lambda layers, _: modules(layers, paper=True)),
        Part("ablations", of(240), SHORTER, "test", lambda layers, _: ablations(LOW, layers)),
        Part(
            "ablations-paper", of(240), SHORTER, "test", lambda layers, _: ablations(LOW, layers, paper=True)
        ),
        Part(
            "disturbances",
            of(480),
            SHORTER,
            "test",
            lambda _, tuned: under(DISTURBANCES, asked(("adatp", *best_peers(tuned)), LOW, tuned)),
        ),
        Part("relevance", of(480), SHORTER, "test", lambda _, tuned: under(WORSE, asked(own, LOW, tuned))),
        Part("shifted", of(480), SHORTER, "shifted", lambda _, tuned: rivals(LOW, tuned)),
    ]


def tuned_settings(
    session: Session, folder: Path, scale: float, until: float | None, batch: int
) -> dict[str, Any]:
    """Do the part "tune", or go on with it."""
    every = [name for name in tune.tunable() if METHODS[name].flops is not None]
    found = tune.tune(
        session,
        every,
        [0.273, 0.1, 0.05],
        list(LENGTHS),
        max(12, round(240 * scale)),
        folder / "tune.work.jsonl",
        until,
        batch,
    )
    (folder / "tune.json").write_text(json.dumps(found, indent=1) + "\n")
    return found


def run(
    session: Session,
    part: Part,
    who: Sequence[Entrant],
    folder: Path,
    until: float | None = None,
    batch: int = 1,
) -> None:
    """Ask what is missing of a part and write its rows, with AdaTP's difference to each other method.

    Args:
        session: of the model.
        part: whose questions are asked.
        who: is asked.
        folder: of the work file and of the rows.
        until: when to stop, by `time.monotonic`; None: when all is answered.
        batch: questions that are asked together.
    """
    world = world_of(session.processor)
    work = folder / f"{part.name}.work.jsonl"
    with Results(work) as results:
        results.pin("command", part.name)
        progress = tune.clock(missing(part, who, results), until)
        evaluate(session, who, part.frames, part.split, part.limit, results, progress, world, batch)
        rows, skipped = summarise(results)
        pins = {name: value for name, value in results.pins.items() if not name.startswith("run ")}
        facts = {**pins, "rows": rows, "against_adatp": proof_tables.against(results, who, part.frames)}
    if part.name == "relevance":
        facts["auc"] = relevance_auc(session, part.frames[0], min(120, part.limit))
    (folder / f"{part.name}.json").write_text(json.dumps({**facts, "skipped": skipped}, indent=1) + "\n")


def relevance_auc(session: Session, frames: int, clips: int) -> dict[str, float]:
    """How well relevance tells frames with evidence from others, as it gets worse: area under the ROC curve.

    Args:
        session: of the model, whose tower has a partner.
        frames: of a clip.
        clips: questions of `validation`; those whose evidence is in all frames or in none don't count.

    Returns:
        Name of the disturbance -> mean over questions; 0.5 is chance.
    """
    world, method = world_of(session.processor), AdaTP(flops=0.5, relevance="siglip", early="off")
    areas: dict[str, list[float]] = {}
    for seed, question in world.benchmark("validation", frames, clips):
        clip = world.make_clip(seed, frames, "validation")
        shown = world.shown(clip, question)
        if shown.all() or not shown.any():
            continue
        prompt = session.prepare(clip.frames, question.text)
        for name in WORSE:
            worse = Disturbance.named(name).method(method, [seed])
            [notes] = session.read(prompt, worse).report.notes
            found = np.array(notes["frame_relevance"])
            higher = found[shown][:, None] - found[~shown]
            areas.setdefault(name, []).append(float(((higher > 0) + 0.5 * (higher == 0)).mean()))
    return {name: fmean(values) for name, values in areas.items()}


def missing(part: Part, who: Sequence[Entrant], results: Results) -> int:
    """Answers that a part lacks."""
    held = sum(len(results.answers[each.key, length]) for each in who for length in part.frames)
    return len(who) * len(part.frames) * part.limit - held


def seconds_an_answer(session: Session, lengths: Sequence[int], batch: int) -> dict[int, float]:
    """How long an answer takes at each length, of vanilla and of AdaTP, clip and tower shared by the two."""
    world, who, found = world_of(session.processor), entrants(["adatp"], [0.273]), {}
    for length in lengths:
        seconds = []
        for attempt in range(3):
            questions = batch * (1 + attempt)
            with TemporaryDirectory() as folder, Results(Path(folder) / "work.jsonl") as results:
                begun = time.monotonic()
                evaluate(session, who, [length], "validation", questions, results, world=world, batch=batch)
                seconds.append((time.monotonic() - begun) / (len(who) * questions))
        found[length] = fmean(seconds[1:])
    return found


def estimate(
    session: Session, chosen: Sequence[Part], tuned: dict[str, Any], folder: Path, batch: int
) -> None:
    """Print how many answers each part lacks and about how long they take here."""
    layers = session.config.get_text_config().num_hidden_layers
    lengths = sorted({length for part in chosen for length in part.frames})
    speed = seconds_an_answer(session, lengths, batch)
    total = 0.0
    for part in chosen:
        who = part.who(layers, tuned)
        work = folder / f"{part.name}.work.jsonl"
        counts = {}
        for length in part.frames:
            held = 0
            if work.exists():
                with Results(work) as results:
                    held = sum(len(results.answers[each.key, length]) for each in who)
            counts[length] = len(who) * part.limit - held
        hours = sum(count * speed[length] for length, count in counts.items()) / 3600
        total += hours
        print(f"{part.name:18} {sum(counts.values()):8,} answers {hours:7.1f} hours")
    per = ", ".join(f"{1000 * value:.0f} ms at {length}" for length, value in speed.items())
    print(f"{'all':18} {'':16} {total:7.1f} hours ({per} frames an answer, on {session.device})")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--model", default="scenes", help="folder of a checkpoint, or an embedded model")
    parser.add_argument(
        "--parts", default="all", help="separated by commas, tune among them; tables: only write"
    )
    parser.add_argument("--scale", type=float, default=1.0, help="of the numbers of questions")
    parser.add_argument("--estimate", action="store_true", help="say how long it takes, and stop")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--batch", type=int, default=1, help="questions asked together; 32 and more on a GPU")
    parser.add_argument("--minutes", type=float, help="stop after so many, to go on another time")
    parser.add_argument(
        "--out",
        type=Path,
        default=proof_tables.RESULTS,
        help="folder of the results; the tables are made from docs/results/scenes alone",
    )
    args = parser.parse_args()
    until = None if args.minutes is None else time.monotonic() + 60 * args.minutes
    every = parts(args.scale)
    known = ["tune", *(part.name for part in every)]
    wanted = known if args.parts == "all" else args.parts.split(",")
    if strange := [name for name in wanted if name not in (*known, "tables")]:
        parser.error(f"no part {strange[0]!r}; there are {', '.join(known)} and tables")
    args.out.mkdir(parents=True, exist_ok=True)
    try:
        if wanted != ["tables"]:
            session = Session(args.model, device=args.device)
            tuning = args.out / "tune.json"
            if args.estimate and not tuning.exists():
                tuned: dict[str, Any] = {"tuned": {}, "methods": {}}
                for name in tune.tunable():  # which peers will be the best changes little of the time
                    tuned["methods"][name] = {"cells": {"": 0.0}}
            elif tuning.exists() and (args.estimate or "tune" not in wanted):
                tuned = json.loads(tuning.read_text())
            else:
                tuned = tuned_settings(session, args.out, args.scale, until, args.batch)
            chosen = [part for part in every if part.name in wanted]
            if args.estimate:
                estimate(session, chosen, tuned, args.out, args.batch)
                return
            layers = session.config.get_text_config().num_hidden_layers
            for part in chosen:
                print(
                    f"{part.name}: {part.limit} questions of {part.split} at {part.frames} frames",
                    file=sys.stderr,
                )
                run(session, part, part.who(layers, tuned), args.out, until, args.batch)
    except AdaTPError as error:
        sys.exit(f"proof: {error}")
    except (KeyboardInterrupt, tune.TimeIsUp):
        sys.exit("proof: stopped; run it again to go on")
    if args.out.resolve() == proof_tables.RESULTS:  # another folder's results are not the page's
        proof_tables.write(args.out)


if __name__ == "__main__":
    main()
