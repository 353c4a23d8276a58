"""Ship a training run: ``python -m adatp.tiny.export --run runs/tiny --dest src/adatp/tiny`` (ours).

Writes the checkpoint (bf16 weights that load as fp32), the SigLIP partner, the model card with freshly
measured figures, and the clip of the quick start.
"""

from __future__ import annotations

import argparse
import json
import re
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file
from transformers import LlavaOnevisionForConditionalGeneration, SiglipModel

from . import QUESTION
from .model import TEXT_LENGTH
from .processor import TinyProcessor, pixel_values
from .train import PEAK_RATE, Run, prompt, validate
from .world import ANSWERS, QUESTION_TYPES, benchmark, evidence, make_clip

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

`python -m adatp.tiny.train`, data drawn anew at every step from the split `train`:

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


def write_clip(path: Path, frames: NDArray[np.uint8], scale: int = 2, fps: int = 2) -> None:
    """Write frames (F, H, W, 3), uint8, as an H.264 file, each pixel `scale` pixels wide and high."""
    frames = frames.repeat(scale, axis=1).repeat(scale, axis=2)
    with av.open(str(path), "w", options={"movflags": "faststart"}) as container:
        stream = container.add_stream("libx264", rate=fps, options={"crf": "16", "preset": "veryslow"})
        stream.height, stream.width = frames.shape[1:3]
        stream.pix_fmt = "yuv420p"
        stream.time_base = Fraction(1, fps)
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode(None))


def read_clip(path: Path) -> NDArray[np.uint8]:
    """Every frame of a video file, (F, H, W, 3), uint8."""
    with av.open(str(path)) as container:
        return np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)])


@torch.no_grad()
def answer(
    model: LlavaOnevisionForConditionalGeneration,
    processor: TinyProcessor,
    frames: NDArray[np.uint8],
    question: str,
) -> str:
    """The model's greedy answer to one question on one clip."""
    inputs = processor(text=prompt(processor, question), videos=frames).to(model.device)
    ids = model.generate(**inputs, max_new_tokens=4)
    return processor.decode(ids[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True)


@torch.no_grad()
def relevance_auc(relevance: SiglipModel, processor: TinyProcessor, n_frames: int, n: int) -> float:
    """How well the partner tells frames with a question's evidence from the others.

    Returns:
        Area under the ROC curve in 0..1, mean over those of n validation questions that have frames of both
        kinds; 0.5 is chance.
    """
    areas = []
    for seed, question in benchmark("validation", n_frames, n):
        clip = make_clip(seed, n_frames, "validation")
        shown = torch.from_numpy(evidence(clip, question.about))
        if shown.all() or not shown.any():
            continue
        text = processor.tokenizer(
            question.text, padding="max_length", max_length=TEXT_LENGTH, return_tensors="pt"
        )
        image = relevance.get_image_features(pixel_values(clip.frames)).pooler_output
        cosine = F.cosine_similarity(image, relevance.get_text_features(text["input_ids"]).pooler_output)
        areas.append((cosine[shown][:, None] > cosine[~shown]).float().mean().item())
    return float(np.mean(areas))


def pick_clip(
    model: LlavaOnevisionForConditionalGeneration, processor: TinyProcessor, path: Path, n_frames: int
) -> tuple[int, int]:
    """Write the first validation clip whose `QUESTION` the model answers right from the compressed file.

    Returns:
        The clip's number, and how many clips before it the model answered wrong.

    Raises:
        RuntimeError: If none of the first 500 clips will do.
    """
    missed = 0
    for seed in range(500):
        clip = make_clip(seed, n_frames, "validation")
        fitting = [q for make in QUESTION_TYPES.values() for q in make(clip) if q.text == QUESTION]
        if fitting:
            write_clip(path, clip.frames)
            if answer(model, processor, read_clip(path), QUESTION) == fitting[0].answer:
                return seed, missed
            missed += 1
    raise RuntimeError(f"the model answers {QUESTION!r} right on none of the first 500 validation clips")


def _table(header: list[str], rows: list[list[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _curve(log: Path, rows: int = 16) -> str:
    """The decoder's training curve at evenly spaced records, the last one included, as a table."""
    records = [json.loads(line) for line in log.read_text().splitlines()]
    records = [record for record in records if record["stage"] == "decoder" and "train" in record]
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
    return _table(["minutes", "frames", *QUESTION_TYPES], lines)


_TOWER = "vision_tower.vision_model."


def _name_as_on_the_hub(file: Path) -> None:
    """Name the tower's weights as older checkpoints do: transformers 5.5 finds them by no other name."""
    weights = load_file(file)
    named = {re.sub(r"^vision_tower\.(?!vision_model)", _TOWER, name): w for name, w in weights.items()}
    save_file(named, file, metadata={"format": "pt"})


def export(run: Run, dest: Path, n_frames: int, n: int, machine: str, history: str) -> None:
    """Write `dest/checkpoint` and `dest/clip.mp4` from a run, with a card of what is measured here and now.

    Args:
        run: The training run.
        dest: Folder of the package data.
        n_frames: F of the clips that are measured on; clips twice as long are, too.
        n: Test questions.
        machine: What the run was trained on, in words.
        history: What else the card should say of the training.
    """
    model, relevance, processor = run.model.eval(), run.relevance.eval(), run.processor
    for module in (model, relevance):  # measure what is shipped
        module.load_state_dict({name: w.bfloat16().float() for name, w in module.state_dict().items()})
    folder = dest / "checkpoint"
    for module, path in ((model, folder), (relevance, folder / "relevance")):
        weights = {name: w.bfloat16() for name, w in module.state_dict().items()}
        module.save_pretrained(path, state_dict=weights)
    _name_as_on_the_hub(folder / "model.safetensors")
    processor.save_pretrained(folder)
    partner = TinyProcessor()
    partner.tokenizer.model_max_length = TEXT_LENGTH
    partner.tokenizer.save_pretrained(folder / "relevance")

    seed, missed = pick_clip(model, processor, dest / "clip.mp4", n_frames)
    seeing = [validate(model, processor, "test", length, n) for length in (n_frames, 2 * n_frames)]
    blind = validate(model, processor, "test", n_frames, n, blind=True)
    chance = {kind: 1 / 2 if kind == "first/last" else 1 / len(ANSWERS[kind]) for kind in QUESTION_TYPES}
    chance["all"] = float(np.mean(list(chance.values())))
    rows = [
        [kind, *(f"{100 * scores[kind]:.1f}" for scores in (*seeing, blind, chance))]
        for kind in [*QUESTION_TYPES, "all"]
    ]
    log = run.out / "log.jsonl"
    steps = {"vision": 0, "decoder": 0}
    lengths: list[str] = []
    named: dict[str, float] = {}
    for record in map(json.loads, log.read_text().splitlines()):
        steps[record["stage"]] = record["step"]
        if record["stage"] == "vision":
            named = record["train"]
        if record["stage"] == "decoder" and str(record["frames"]) not in lengths and "train" in record:
            lengths.append(str(record["frames"]))
    card = CARD.format(
        parameters=sum(p.numel() for p in model.parameters()) / 1e6,
        partner=sum(p.numel() for p in relevance.parameters()) / 1e6,
        kinds=", ".join(QUESTION_TYPES),
        vision_minutes=run.spent["vision"] / 60,
        vision_steps=steps["vision"],
        decoder_minutes=run.spent["decoder"] / 60,
        decoder_steps=steps["decoder"],
        lengths=", ".join(lengths) or "no",
        machine=machine,
        vision_rate=PEAK_RATE["vision"],
        decoder_rate=PEAK_RATE["decoder"],
        names=", ".join(f"{100 * named[f'name {what}']:.0f} %" for what in ("colour", "shape", "corner")),
        curve=_curve(log),
        history=f" {history}" if history else "",
        n=n,
        table=_table(
            ["type", f"{n_frames} frames, %", f"{2 * n_frames} frames, %", "blind %", "chance %"], rows
        ),
        n_auc=n // 2,
        auc=relevance_auc(relevance, processor, n_frames, n // 2),
        text_length=TEXT_LENGTH,
        seed=seed,
        question=QUESTION,
        missed=missed,
    )
    (folder / "README.md").write_text(card)


def main() -> None:
    """Parse the command line and export."""
    parser = argparse.ArgumentParser(prog="python -m adatp.tiny.export", description="Ship a training run.")
    parser.add_argument("--run", type=Path, required=True, help="folder that adatp.tiny.train wrote")
    parser.add_argument(
        "--dest", type=Path, required=True, help="folder to write checkpoint/ and clip.mp4 into"
    )
    parser.add_argument("--machine", required=True, help="what it was trained on, for the card")
    parser.add_argument("--history", default="", help="what else the card should say of the training")
    parser.add_argument("--frames", type=int, default=16, help="frames of the clips to measure on")
    parser.add_argument("--questions", type=int, default=400, help="test questions to measure on")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="threads on the CPU")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    export(Run(args.run, 0, "cpu"), args.dest, args.frames, args.questions, args.machine, args.history)


if __name__ == "__main__":
    main()
