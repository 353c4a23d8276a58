"""Calibrates tau_s for segments by the mean of features, against segments by the pooled head.

Run: python benchmarks/segments.py --model scenes --json docs/results/scenes-segments.json

For each threshold it says how many true scene changes are found, how many cuts are true, and how far the cuts
agree with those of the head at the paper's 0.95. A cut that is one frame off counts.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from adatp import AdaTP, Session
from adatp.adatp_steps.segment import segment_frames
from adatp.errors import AdaTPError
from adatp.evaluation import WORLDS
from adatp.methods.segments import segments_of
from adatp.prefill import Prefill

PAPER = 0.95
TAUS = (0.5, 0.6, 0.7, 0.8, 0.85, 0.9, 0.925, 0.95, 0.97, 0.98, 0.99, 0.995)


class Watching(AdaTP):
    """Notes what frames are compared by."""

    def plan(self, prefill: Prefill) -> Any:
        observed.append((prefill.frame_features(0), prefill.frame_embeddings(0)))
        segments_of(prefill, 0, PAPER)  # what the method itself would do
        return None


observed: list[tuple[Tensor, Tensor | None]] = []


def cuts_of(frames: Tensor, tau: float) -> set[int]:
    """The frames that begin a segment, without the first."""
    return set((segment_frames(frames, tau).diff() > 0).nonzero().flatten().add(1).tolist())


def near(cuts: set[int], others: set[int]) -> int:
    """How many cuts have one of the others at most a frame away."""
    return sum(any(abs(cut - other) <= 1 for other in others) for cut in cuts)


def measure(session: Session, world_name: str, frames: int, clips: int, split: str) -> list[dict[str, Any]]:
    """A row for each way to compare frames and each threshold.

    Args:
        session: of the model, whose tower has a partner.
        world_name: whose clips are read.
        frames: of a clip.
        clips: how many.
        split: of the world.
    """
    world, found = WORLDS[world_name], []
    for seed in range(clips):
        clip = world.make_clip(seed, frames, split)
        true = set(clip.cuts[1:]) if world_name == "tiny" else {scene.start for scene in clip.scenes[1:]}
        observed.clear()
        session.read(session.prepare(clip.frames, "what ?"), Watching(flops=0.5, segments="head"))
        [(mean, head)] = observed
        assert head is not None
        found.append((true, mean.cpu(), head.cpu()))
    rows = []
    for name in ("mean", "head"):
        for tau in TAUS:
            cuts = [cuts_of(mean if name == "mean" else head, tau) for _, mean, head in found]
            papers = [cuts_of(head, PAPER) for _, _, head in found]
            true_cuts = [true for true, _, _ in found]
            both = sum(len(a & b) for a, b in zip(cuts, papers, strict=True))
            either = sum(len(a | b) for a, b in zip(cuts, papers, strict=True))
            right = sum(near(a, b) for a, b in zip(cuts, true_cuts, strict=True))
            caught = sum(near(b, a) for a, b in zip(cuts, true_cuts, strict=True))
            rows.append(
                {
                    "features": name,
                    "tau_s": tau,
                    "segments": 1 + sum(map(len, cuts)) / clips,
                    "found": caught / max(1, sum(map(len, true_cuts))),
                    "true": right / max(1, sum(map(len, cuts))),
                    "agrees": both / either if either else 1.0,
                }
            )
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--model", help="folder of a checkpoint, or the name of an embedded model")
    parser.add_argument("--world", default="scenes", choices=list(WORLDS))
    parser.add_argument("--frames", type=int, default=32)
    parser.add_argument("--clips", type=int, default=60)
    parser.add_argument("--split", default="validation")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    try:
        session = Session(args.model or args.world, device=args.device)
        rows = measure(session, args.world, args.frames, args.clips, args.split)
    except AdaTPError as error:
        sys.exit(f"segments: {error}")
    print(f"{'':6}{'tau_s':>7}{'segments':>10}{'found':>8}{'true':>8}{'agrees with head at 0.95':>26}")
    for row in rows:
        print(
            f"{row['features']:6}{row['tau_s']:7.3f}{row['segments']:10.1f}{row['found']:8.0%}{row['true']:8.0%}"
            f"{row['agrees']:26.0%}"
        )
    best = max((row for row in rows if row["features"] == "mean"), key=lambda row: row["agrees"])
    print(f"mean features agree most at tau_s = {best['tau_s']:g}")
    if args.json is not None:
        facts = {"frames": args.frames, "clips": args.clips, "split": args.split, "world": args.world}
        args.json.write_text(
            json.dumps({**facts, "tau_s_of_mean": best["tau_s"], "rows": rows}, indent=1) + "\n"
        )


if __name__ == "__main__":
    torch.set_grad_enabled(False)
    main()
