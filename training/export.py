"""Ship a training run: ``python -m training.export --run runs/tiny --dest src/adatp/tiny`` (ours).

Writes the checkpoint (bf16 weights that load as fp32), the SigLIP partner, the model card with freshly
measured figures, and the clip of the quick start.
"""

from __future__ import annotations

import argparse
import re
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file
from transformers import LlavaOnevisionForConditionalGeneration, SiglipModel

from adatp.demo.mp4 import write_mp4
from adatp.tiny import QUESTION
from adatp.tiny.processor import TinyProcessor, pixel_values
from adatp.tiny.sizes import TEXT_LENGTH
from adatp.tiny.world import ANSWERS, QUESTION_TYPES, benchmark, evidence, make_clip
from adatp.video import read_video
from training.card import CARD, table, training_facts
from training.run import PEAK_RATE, Run
from training.validation import prompt, validate


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
    """How well the partner separates frames with a question's evidence from the others.

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
            write_mp4(path, clip.frames)
            if answer(model, processor, read_video(path, n_frames).frames, QUESTION) == fitting[0].answer:
                return seed, missed
            missed += 1
    raise RuntimeError(f"the model answers {QUESTION!r} right on none of the first 500 validation clips")


_TOWER = "vision_tower.vision_model."


def _name_as_on_the_hub(file: Path) -> None:
    """Name the tower's weights as older checkpoints do: transformers 5.5 finds them by no other name."""
    weights = load_file(file)
    named = {re.sub(r"^vision_tower\.(?!vision_model)", _TOWER, name): w for name, w in weights.items()}
    save_file(named, file, metadata={"format": "pt"})


def save_checkpoint(run: Run, folder: Path) -> None:
    """Write the weights in bf16, the configs, the processor, and the partner in `folder / "relevance"`.

    The run's own weights are rounded to bf16 as well, so that what is measured is what is shipped.
    """
    for module, path in ((run.model, folder), (run.relevance, folder / "relevance")):
        weights = {name: w.bfloat16() for name, w in module.state_dict().items()}
        module.load_state_dict({name: w.float() for name, w in weights.items()})
        module.save_pretrained(path, state_dict=weights)
    _name_as_on_the_hub(folder / "model.safetensors")
    run.processor.save_pretrained(folder)
    partner = TinyProcessor()
    partner.tokenizer.model_max_length = TEXT_LENGTH
    partner.tokenizer.save_pretrained(folder / "relevance")


def accuracy_table(
    model: LlavaOnevisionForConditionalGeneration, processor: TinyProcessor, n_frames: int, n: int
) -> str:
    """Accuracy on n test questions by type, on clips of n_frames and twice that, blind, and by chance."""
    seeing = [validate(model, processor, "test", length, n) for length in (n_frames, 2 * n_frames)]
    blind = validate(model, processor, "test", n_frames, n, blind=True)
    chance = {kind: 1 / 2 if kind == "first/last" else 1 / len(ANSWERS[kind]) for kind in QUESTION_TYPES}
    chance["all"] = float(np.mean(list(chance.values())))
    rows = [
        [kind, *(f"{100 * scores[kind]:.1f}" for scores in (*seeing, blind, chance))]
        for kind in [*QUESTION_TYPES, "all"]
    ]
    header = ["type", f"{n_frames} frames, %", f"{2 * n_frames} frames, %", "blind %", "chance %"]
    return table(header, rows)


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
    folder = dest / "checkpoint"
    save_checkpoint(run, folder)
    seed, missed = pick_clip(model, processor, dest / "clip.mp4", n_frames)
    card = CARD.format(
        parameters=sum(p.numel() for p in model.parameters()) / 1e6,
        partner=sum(p.numel() for p in relevance.parameters()) / 1e6,
        kinds=", ".join(QUESTION_TYPES),
        vision_minutes=run.spent["vision"] / 60,
        decoder_minutes=run.spent["decoder"] / 60,
        machine=machine,
        vision_rate=PEAK_RATE["vision"],
        decoder_rate=PEAK_RATE["decoder"],
        history=f" {history}" if history else "",
        n=n,
        table=accuracy_table(model, processor, n_frames, n),
        n_auc=n // 2,
        auc=relevance_auc(relevance, processor, n_frames, n // 2),
        text_length=TEXT_LENGTH,
        seed=seed,
        question=QUESTION,
        missed=missed,
        **training_facts(run.out / "log.jsonl"),
    )
    (folder / "README.md").write_text(card)


def main() -> None:
    """Parse the command line and export."""
    parser = argparse.ArgumentParser(prog="python -m training.export", description="Ship a training run.")
    parser.add_argument("--run", type=Path, required=True, help="folder that training.train wrote")
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
