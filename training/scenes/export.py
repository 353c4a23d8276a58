"""Write a run's checkpoint: ``python -m training.scenes.export --run runs/scenes --dest checkpoint``.

The weights are bf16 and load as float32. `dest` holds the Video LLM, `dest/relevance` its partner. The model
card has figures measured on the written weights: accuracy by type, blind and not, and the partner's ranking.
"""

from __future__ import annotations

import argparse
import json
import re
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from adatp.scenes import CHANCE
from adatp.tiny import TinyProcessor
from training.scenes.model import TEXT_LENGTH, build_model, build_partner, build_tokenizer
from training.scenes.validate import background_cosine, relevance_auc, validate

CARD = """---
license: apache-2.0
library_name: transformers
pipeline_tag: video-text-to-text
---

# The second embedded model of adatp

A `LlavaOnevisionForConditionalGeneration` ({parameters:.1f} M parameters) and, in `relevance/`, the
`SiglipModel` that its tower is cut from ({partner:.1f} M), trained by `training/scenes/train.py` on
`adatp.scenes`: {steps} decoder steps, every prompt whole. Weights are stored in bf16.

## Accuracy

{n} questions of the split `test` at each length, one a clip, types and answers in turn. "Blind" is the same
model shown black frames.

{table}

## Partner

Probability that a frame with a question's evidence scores higher than one without, on validation questions.
It never read a question of these forms, and one pair of colour and shape in seven was never named to it as a
pair.

{areas}

## Backgrounds

Mean cosine of a projected background token to the same position in the frame before, by camera: {cosine}.
"""


def _rows(header: list[str], rows: list[list[str]]) -> str:
    return "\n".join(f"| {' | '.join(row)} |" for row in [header, ["---"] * len(header), *rows])


def main() -> None:
    """Parse the command line and export."""
    parser = argparse.ArgumentParser(description="Write the checkpoint of a run.")
    parser.add_argument("--run", type=Path, required=True)
    parser.add_argument("--dest", type=Path, required=True)
    parser.add_argument("--frames", type=int, nargs="+", default=[16, 32])
    parser.add_argument("--questions", type=int, default=480)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    args = parser.parse_args()
    state = torch.load(args.run / "state.pt", map_location="cpu", weights_only=True)
    processor = TinyProcessor(build_tokenizer())
    model, partner = build_model(processor.tokenizer), build_partner(processor.tokenizer)
    for module, name, folder in ((model, "model", args.dest), (partner, "partner", args.dest / "relevance")):
        weights = {key: value.bfloat16() for key, value in state[name].items()}
        module.load_state_dict({key: value.float() for key, value in weights.items()})
        module.save_pretrained(folder, state_dict=weights)
        module.to(args.device).eval()
    # Transformers 5.5 finds a tower's weights by the older name alone.
    saved = load_file(args.dest / "model.safetensors")
    tower = "vision_tower.vision_model."
    named = {
        re.sub(r"^(model\.)?vision_tower\.(?!vision_model)", rf"\g<1>{tower}", k): v for k, v in saved.items()
    }
    save_file(named, args.dest / "model.safetensors", metadata={"format": "pt"})
    processor.save_pretrained(args.dest)
    texts = TinyProcessor(build_tokenizer())
    texts.tokenizer.model_max_length = TEXT_LENGTH
    texts.tokenizer.save_pretrained(args.dest / "relevance")

    seeing = [validate(model, processor, "test", frames, args.questions) for frames in args.frames]
    blind = validate(model, processor, "test", args.frames[0], args.questions, blind=True)
    chance = {**CHANCE, "all": sum(CHANCE.values()) / len(CHANCE)}
    rows = [[kind, *(f"{100 * each[kind]:.1f}" for each in (*seeing, blind, chance))] for kind in blind]
    areas = relevance_auc(partner, processor, args.frames[0], args.questions)
    card = CARD.format(
        parameters=sum(p.numel() for p in model.parameters()) / 1e6,
        partner=sum(p.numel() for p in partner.parameters()) / 1e6,
        steps=state["step"],
        n=args.questions,
        table=_rows(["type", *(f"{f} frames, %" for f in args.frames), "blind, %", "chance, %"], rows),
        areas=_rows(["type", "AUC"], [[kind, f"{area:.3f}"] for kind, area in areas.items()]),
        cosine=json.dumps(background_cosine(model, "test", 16, 40)),
    )
    (args.dest / "README.md").write_text(card)


if __name__ == "__main__":
    main()
