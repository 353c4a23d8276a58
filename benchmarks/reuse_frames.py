"""What not encoding similar frames does to accuracy, and how many are left, on the embedded model's world.

Vanilla, AdaTP, and AdaTP with `reuse_frames` at several thresholds answer the same questions, as in
`adatp eval`.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path

from rich.console import Console
from rich.progress import track
from rich.table import Table

from adatp import AdaTP, Session
from adatp.evaluation import Entrant, Results, evaluate, summarise
from adatp.evaluation.entrants import VANILLA
from adatp.frame_reuse import reference_frames
from adatp.tiny.world import benchmark, make_clip


def encoded_share(
    session: Session, frames: int, split: str, clips: int, thresholds: list[float]
) -> list[float]:
    """Share of frames that are encoded at each threshold, mean over the first clips."""
    shares = [0.0] * len(thresholds)
    asked = list(benchmark(split, frames, clips))
    for seed, question in track(asked, "comparing frames", console=Console(stderr=True)):
        clip = make_clip(seed, frames, split)
        prompt = session.prepare(clip.frames, question.text)
        pixels = prompt.inputs["pixel_values_videos"][0]
        for number, threshold in enumerate(thresholds):
            encoded = {*reference_frames(pixels, threshold, session.config.vision_config.patch_size)}
            shares[number] += len(encoded) / frames / len(asked)
    return shares


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--frames", type=int, default=16)
    parser.add_argument("--limit", type=int, default=200, help="questions")
    parser.add_argument("--flops", type=float, default=0.273)
    parser.add_argument("--thresholds", default="0.05,0.1,0.2,0.3")
    parser.add_argument("--split", default="test")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    thresholds = [float(each) for each in options.thresholds.split(",")]
    session = Session(device="cpu")
    competing = [VANILLA, Entrant("adatp", AdaTP(flops=options.flops))]
    competing += [
        Entrant(f"reuse {each:g}", AdaTP(flops=options.flops), reuse_frames=each) for each in thresholds
    ]
    with tempfile.TemporaryDirectory() as folder, Results(Path(folder) / "work.jsonl") as results:
        evaluate(session, competing, [options.frames], options.split, options.limit, results)
        rows, _ = summarise(results)
    shares = encoded_share(session, options.frames, options.split, options.limit, thresholds)
    table = Table("", "frames encoded", "accuracy", "minus vanilla", "answers that change", box=None)
    for entrant, row, share in zip(competing, rows, [1.0, 1.0, *shares], strict=True):
        row.update(method=entrant.label, frames_encoded=share)
        delta = "" if row["delta"] is None else f"{100 * row['delta']:+.1f}"
        changed = "" if row["changed"] is None else f"{row['changed']:.1%}"
        table.add_row(entrant.label, f"{share:.1%}", f"{row['accuracy']:.1%}", delta, changed)
    asked = f"{options.frames} frames, {options.limit} questions, {options.flops:.1%} of the FLOPs"
    Console().print(asked, table)
    if options.json:
        options.json.write_text(json.dumps({"rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
