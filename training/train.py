"""Train the embedded model: ``python -m training.train --out runs/tiny`` (ours, not the paper's).

Runs from the top folder of a checkout; `make dev` makes the environment.

Two stages, each with its own time budget:

- *vision* (`training.vision`): SigLIP, on single frames. Texts (captions, and questions whose evidence a
  frame shows or not) and frames are matched with SigLIP's sigmoid loss. At the same time every visual token
  that the Video LLM will read names, through its projector and in its own word embeddings, the colour, shape
  and place of what it shows. The tower is then copied into the Video LLM and stays frozen, so that SigLIP
  stays its partner.
- *decoder* (`training.decoder`): projector and decoder, on clips that grow from 2 to 32 frames. All questions
  on a clip share one pass: each sits in a block of its own after the visual tokens and attends to those and
  itself only, at the positions it would have alone. In most steps most visual tokens that show nothing are
  left out (`training.clips.thin`): the model is trained on prompts with gaps, and real Video LLMs are not.
  Linear probes, thrown away afterwards, ask the hidden states for what few answers teach, such as the frame
  of a token (`training.probes`).

``--start-from`` takes the first weights from a checkpoint, the shipped one for instance, to go on improving
it (``--vision-minutes 0`` keeps its tower as it is).

Every minute the state is written to ``OUT/state.pt`` in one atomic step; the same command after a kill
goes on from there. Data come from (seed, stage, step), so no random state needs saving. ``OUT/log.jsonl``
holds the curves. Training needs transformers 5.12 and torch 2.9 or newer; what it makes runs from older ones
on.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch

from training.run import Run


def main() -> None:
    """Parse the command line and train."""
    parser = argparse.ArgumentParser(prog="python -m training.train", description="Train the embedded model.")
    parser.add_argument("--out", type=Path, required=True, help="folder of the run; resumed if it holds one")
    parser.add_argument("--vision-minutes", type=float, default=20, help="minutes of the vision stage")
    parser.add_argument("--minutes", type=float, default=60, help="minutes of the decoder stage")
    parser.add_argument("--validation", type=int, default=160, help="questions of a validation")
    parser.add_argument("--start-from", type=Path, help="checkpoint folder to take the first weights from")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="threads on the CPU")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    budgets = {"vision": 60 * args.vision_minutes, "decoder": 60 * args.minutes}
    Run(args.out, args.seed, args.device, args.start_from).train(budgets, args.validation)


if __name__ == "__main__":
    main()
