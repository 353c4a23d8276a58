"""The model card of the embedded model: a template, and what a run's log fills into it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from adatp.tiny.world import QUESTION_TYPES

CARD = """---
license: apache-2.0
library_name: transformers
pipeline_tag: video-text-to-text
---

# The embedded model of adatp

A Video LLM small enough to ship with the package: an ordinary
`LlavaOnevisionForConditionalGeneration` ({parameters:.1f} M parameters; SigLIP tower 128 wide, 4
layers; Qwen2 decoder 192 wide, 12 layers; 96 x 96 frames, 36 visual tokens a frame), and in
`relevance/` the `SiglipModel` that its tower is cut from, with text tower, last layer and head
({partner:.1f} M). Weights are stored in bf16 and load as fp32.

## What it knows

A synthetic world (`adatp.tiny.world`): moving, textured, coloured shapes, hard cuts and soft changes,
events of one or two frames, distractors that share a colour or a shape. One-word answers to
questions of these types: {kinds}.
Any other word is unknown to it.

## Training

`python -m training.train` in a checkout of the repository, data drawn anew at every step from the
split `train`:

- vision: {vision_minutes:.0f} minutes, {vision_steps} steps of 35 single frames and 100 texts;
- decoder, tower frozen: {decoder_minutes:.0f} minutes, {decoder_steps} steps, clips of {lengths}
  frames in turn.

In three of four decoder steps most of the visual tokens that show nothing were left out, at the
positions the rest have: the model has seen prompts with gaps in training, which real Video LLMs have
not, and that may make every pruning method look better on it than on them.

Machine: {machine}. Muon for the layers' matrices, AdamW for the rest, peak rates {vision_rate} and
{decoder_rate}, bf16 autocast.{history}

At the end of the vision stage {names} of the visual tokens that show a thing named its colour,
shape and corner of the frame right.

Accuracy on the training stream (each clip is new to the model) while it trained; "frames" is the
phase's length:

{curve}

## Accuracy

{n} questions of the split `test` at each length, one a clip, types and answers in equal numbers,
greedy. "Blind" is the same model shown black frames; chance is that of guessing among a type's
answers. `adatp eval` measures on more questions, with intervals.

{table}

The partner, on {n_auc} questions of the split `validation`: the probability that a frame with the
evidence scores higher than one without it (area under the ROC curve, mean over clips) is {auc:.3f};
0.5 is chance. Texts must be padded to {text_length} tokens (`padding="max_length"`), as SigLIP's
are.

## The clip of the quick start

`clip.mp4` is clip {seed} of the split `validation`. It was picked: the first clip, from number 0
on, in which the question "{question}" has an answer that the model gets right, after video
compression ({missed} before it were answered wrong).
"""


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table in Markdown."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def training_facts(log: Path) -> dict[str, object]:
    """What the log of a run tells: the fields of `CARD` on its steps, its clips and its curve.

    Args:
        log: The `log.jsonl` of a run that got through both stages.
    """
    records = [json.loads(line) for line in log.read_text().splitlines()]
    steps = {"vision": 0, "decoder": 0}
    lengths: list[str] = []
    named: dict[str, float] = {}
    for record in records:
        steps[record["stage"]] = record["step"]
        if record["stage"] == "vision":
            named = record["train"]
        if record["stage"] == "decoder" and str(record["frames"]) not in lengths and "train" in record:
            lengths.append(str(record["frames"]))
    return {
        "vision_steps": steps["vision"],
        "decoder_steps": steps["decoder"],
        "lengths": ", ".join(lengths) or "no",
        "names": ", ".join(f"{100 * named[f'name {what}']:.0f} %" for what in ("colour", "shape", "corner")),
        "curve": _curve([r for r in records if r["stage"] == "decoder" and "train" in r]),
    }


def _curve(records: Sequence[dict[str, dict[str, float]]], rows: int = 16) -> str:
    """The decoder's training curve at evenly spaced records, the last one included, as a table."""
    picked = [records[i] for i in sorted({*np.linspace(0, len(records) - 1, rows).round().astype(int)})]
    lines = [
        [
            f"{record['minutes']['decoder']:.0f}",
            str(record["frames"]),
            *(
                f"{100 * record['train'][kind]:.0f}" if kind in record["train"] else "-"
                for kind in QUESTION_TYPES
            ),
        ]
        for record in picked
    ]
    return table(["minutes", "frames", *QUESTION_TYPES], lines)
