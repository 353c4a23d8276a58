"""Train the second embedded model: ``python -m training.scenes.train --out runs/scenes``.

Two stages, counted in steps:

- *vision*: the partner, on single frames. Captions and frames are matched with SigLIP's sigmoid loss; every
  visual token that the Video LLM will read names what it shows, its place included, and reproduces a
  thumbnail of its pixels. The tower is then copied into the Video LLM and stays frozen.
- *decoder*: projector and decoder, on clips that grow (`--curriculum`). All questions on a clip share one
  pass. Every prompt is complete. A quarter of the steps repeat shorter clips.

The complete state is written to ``OUT/state.pt`` in one atomic step every few minutes. The same command after
a kill continues from there: batches follow from (seed, stage, step). So do runs with more steps, or with
another curriculum whose first phases are the same. ``OUT/log.jsonl`` has the curves; ``plot.py`` draws them.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

import torch
from safetensors.torch import load_file
from transformers import LlavaOnevisionForConditionalGeneration, SiglipModel

from adatp.tiny import TinyProcessor
from training.scenes.attention import SHARED_PREFIX
from training.scenes.data import clip_batch, stream, vision_batch
from training.scenes.losses import Probes, decoder_loss, vision_loss
from training.scenes.model import TOKENS_PER_FRAME, build_model, build_partner, build_tokenizer
from training.scenes.optim import Muon
from training.scenes.scores import Scores
from training.scenes.validate import background_cosine, validate
from training.towers import graft_tower

HARD = dict.fromkeys(("colour", "shape", "where", "eighth", "count", "place", "change"), 2.0)
"""Question types that are asked more often, as they are learned last in clips of 32 frames and more.

The first 1,640 steps of the shipped checkpoint preferred counts, the first or last of three, which of two
came first, and the eighth instead.
"""

CURRICULUM = "2:400,4:600,8:1200,16:3000,32:2000,64:600"
"""Frames of a clip and steps with them, phase by phase."""

REHEARSAL = 0.25
"""Share of the steps of a phase that use an earlier phase's length."""

PROBES = Path(__file__).parent / "probes.safetensors"
"""The probes of the run that the shipped checkpoint is from."""

QUESTION_TOKENS = 18
"""Tokens of a question and its answer, about."""


@dataclass(frozen=True)
class Settings:
    """What a run is trained with.

    Attributes:
        vision_steps: Steps of the vision stage.
        vision_frames: Frames a step there.
        curriculum: (frames, steps) of each phase of the decoder stage.
        tokens: Tokens a step there, visual and text, about.
        rates: Peak learning rate of each stage.
        cooldown: Share of a stage's steps, at its end, over which the rate falls to zero.
        workers: Processes that make batches; 0 makes them in the training process.
        minutes: Minutes after which to stop, wherever training is.
        save_every: Minutes between states written.
        validate_every: Minutes between validations.
        validation: Questions of a validation.
        start: Folder of an exported checkpoint that a new run begins from, in the decoder stage; None: from
            nothing.
        start_step: Steps of that stage that the checkpoint has had.
    """

    vision_steps: int
    vision_frames: int
    curriculum: tuple[tuple[int, int], ...]
    tokens: int
    rates: dict[str, float]
    cooldown: float
    workers: int
    minutes: float
    save_every: float
    validate_every: float
    validation: int
    start: Path | None = None
    start_step: int = 0

    def steps(self, stage: str) -> int:
        """Steps of a stage."""
        return self.vision_steps if stage == "vision" else sum(steps for _, steps in self.curriculum)

    def frames(self, step: int) -> int:
        """Frames of the phase that a step of the decoder stage belongs to."""
        for frames, steps in self.curriculum:
            step -= steps
            if step < 0:
                return frames
        return self.curriculum[-1][0]


def decoder_job(settings: Settings, seed: int, step: int) -> tuple[Any, ...]:
    """Arguments of `clip_batch` for a step: its clip length, how many clips, how many questions each."""
    rng = Random(f"length {seed} {step}")
    now = settings.frames(step)
    earlier = [frames for frames, _ in settings.curriculum if frames < now]
    frames = rng.choice(earlier) if earlier and rng.random() < REHEARSAL else now
    if frames >= 16 and rng.random() < 0.3:
        frames = rng.randint(frames * 5 // 8, frames)  # no length is special
    questions = min(40, 6 + frames)
    clips = max(1, settings.tokens // (TOKENS_PER_FRAME * frames + QUESTION_TOKENS * questions))
    return (1_000_000 * seed + step, clips, frames, questions, HARD)


class Run:
    """The state of a training run in a folder, and its log.

    Attributes:
        stage: "vision", "decoder" or "done".
        step: Steps taken in the stage.
        spent: Seconds of training in each stage, over all sittings.
    """

    def __init__(self, out: Path, seed: int, device: str, settings: Settings) -> None:
        out.mkdir(parents=True, exist_ok=True)
        self.out, self.seed, self.device, self.settings = out, seed, torch.device(device), settings
        torch.manual_seed(seed)
        self.processor = TinyProcessor(build_tokenizer())
        self.partner = build_partner(self.processor.tokenizer).to(self.device)
        self.model = build_model(self.processor.tokenizer).to(self.device)
        self.probes = Probes().to(self.device)
        self.stage, self.step, self.stopped = "vision", 0, False
        self.spent = {"vision": 0.0, "decoder": 0.0}
        saved: dict[str, Any] | None = None
        if (out / "state.pt").exists():
            saved = torch.load(out / "state.pt", map_location=self.device, weights_only=True)
            self.stage, self.step, self.spent = saved["stage"], saved["step"], saved["spent"]
            for name in ("partner", "model", "probes"):
                getattr(self, name).load_state_dict(saved[name])
        elif settings.start is not None:
            self._start_from(settings.start)
        if self.stage == "done" and self.step < settings.steps("decoder"):
            self.stage = "decoder"
        self.optimizers = self._optimizers()
        if saved is not None and "optimizers" in saved:  # a light state has none
            for optimizer, its in zip(self.optimizers, saved["optimizers"], strict=True):
                optimizer.load_state_dict(its)
        for module in (self.model, self.partner):
            module.set_attn_implementation(SHARED_PREFIX)

    def _start_from(self, folder: Path) -> None:
        """Take the weights of an exported checkpoint, and of the probes if they are beside this file."""
        found = LlavaOnevisionForConditionalGeneration.from_pretrained(folder, dtype=torch.float32)
        self.model.load_state_dict(found.state_dict())
        partner = SiglipModel.from_pretrained(folder / "relevance", dtype=torch.float32)
        self.partner.load_state_dict(partner.state_dict())
        if PROBES.exists():
            self.probes.load_state_dict(load_file(PROBES))
        self.stage, self.step = "decoder", self.settings.start_step

    def _optimizers(self) -> tuple[torch.optim.Optimizer, ...]:
        vision = self.stage == "vision"
        self.partner.requires_grad_(vision)
        self.model.requires_grad_(not vision)
        if vision:
            self.model.model.multi_modal_projector.requires_grad_(True)
            self.model.get_input_embeddings().requires_grad_(True)
        else:
            self.model.model.vision_tower.requires_grad_(False)
        modules = (self.partner, self.model, self.probes)
        named = [x for module in modules for x in module.named_parameters() if x[1].requires_grad]
        self.trained = [p for _, p in named]
        matrices = [p for name, p in named if ".layers." in name and p.ndim == 2]
        others = [p for name, p in named if not (".layers." in name and p.ndim == 2)]
        groups = [
            {"params": [p for p in others if p.ndim >= 2], "weight_decay": 0.02},
            {"params": [p for p in others if p.ndim < 2], "weight_decay": 0.0},
        ]
        return Muon(matrices), torch.optim.AdamW(groups, lr=0.0, betas=(0.9, 0.98))

    def save(self) -> None:
        """Write the state in one atomic step: a kill leaves the old one or the new one, never half of one."""
        state = {
            "stage": self.stage,
            "step": self.step,
            "spent": self.spent,
            "optimizers": [optimizer.state_dict() for optimizer in self.optimizers],
            **{name: getattr(self, name).state_dict() for name in ("partner", "model", "probes")},
        }
        torch.save(state, self.out / "state.pt.new")
        os.replace(self.out / "state.pt.new", self.out / "state.pt")

    def save_light(self) -> None:
        """Write ``light.pt``: the state without the optimisers' part, to carry it to another machine."""
        light = {"stage": self.stage, "step": self.step, "spent": self.spent}
        light |= {name: getattr(self, name).state_dict() for name in ("partner", "model", "probes")}
        torch.save(light, self.out / "light.pt")

    def log(self, **record: Any) -> None:
        """Append a record to the curves."""
        minutes = {stage: round(seconds / 60, 2) for stage, seconds in self.spent.items()}
        with (self.out / "log.jsonl").open("a") as file:
            line = {"stage": self.stage, "step": self.step, "minutes": minutes, **record}
            file.write(json.dumps(line) + "\n")

    def _jobs(self) -> Iterator[Any]:
        """The batches of the stage from the present step on: what makes them, and with what."""
        for step in range(self.step, self.settings.steps(self.stage)):
            if self.stage == "vision":
                yield vision_batch, (1_000_000 * self.seed + step, self.settings.vision_frames)
            else:
                yield clip_batch, decoder_job(self.settings, self.seed, step)

    def _loss(self, batch: Any, scores: Scores) -> torch.Tensor:
        model, probes = self.model, self.probes
        with torch.autocast(self.device.type, torch.bfloat16):
            if self.stage == "vision":
                return vision_loss(batch, self.partner, model, self.processor.tokenizer, probes, scores)
            return decoder_loss(batch, model, self.processor, probes, scores)

    def update(self, loss: torch.Tensor) -> None:
        """One optimiser step: warm up, hold, then fall over the last part of the stage."""
        left = 1 - self.step / self.settings.steps(self.stage)
        rate = self.settings.rates[self.stage]
        rate *= min(1.0, (self.step + 1) / 50, left / max(self.settings.cooldown, 1e-6) + 0.02)
        for optimizer in self.optimizers:
            for group in optimizer.param_groups:
                group["lr"] = rate
            optimizer.zero_grad(set_to_none=True)
        torch.autograd.backward(loss)
        torch.nn.utils.clip_grad_norm_(self.trained, 1.0)
        for optimizer in self.optimizers:
            optimizer.step()
        self.step += 1

    def train(self) -> None:
        """Run what is left of both stages, or as much as the minutes allow; SIGTERM stops after a step."""
        until = time.monotonic() + 60 * self.settings.minutes
        signal.signal(signal.SIGTERM, self._stop)
        while self.stage != "done" and time.monotonic() < until and not self.stopped:
            self._train_stage(until)
        self.save()
        self.save_light()

    def _stop(self, *_: object) -> None:
        self.stopped = True

    def _train_stage(self, until: float) -> None:
        scores = Scores()
        now = saved = logged = validated = time.monotonic()
        first = self.step
        for batch in stream(self._jobs(), self.settings.workers):
            loss = self._loss(batch, scores)
            self.update(loss)
            scores.add("loss", loss)
            began, now = now, time.monotonic()
            self.spent[self.stage] += now - began
            if now - logged > 60 or self.step == self.settings.steps(self.stage):
                means = scores.means()
                rate = round((self.step - first) / max(now - logged, 1e-9), 3)
                frames = 1 if self.stage == "vision" else self.settings.frames(self.step - 1)
                self.log(frames=frames, steps_per_second=rate, loss=means.pop("loss"), train=means)
                scores, logged, first = Scores(), now, self.step
            if now - saved > 60 * self.settings.save_every:
                self.save()
                saved = now
            if self.stage == "decoder" and now - validated > 60 * self.settings.validate_every:
                self._validate()
                now = validated = time.monotonic()
            if now > until or self.stopped:
                return
        if self.stage == "decoder":
            self._validate()
            self.stage = "done"
        else:
            graft_tower(self.model, self.partner)
            self.stage, self.step = "decoder", 0
        self.optimizers = self._optimizers()
        self.save()

    def _validate(self) -> None:
        frames = max(16, self.settings.frames(self.step - 1))
        for module in (self.model, self.partner):
            module.eval()
            module.set_attn_implementation("sdpa")
        found = validate(self.model, self.processor, "validation", frames, self.settings.validation)
        cosine = background_cosine(self.model, "validation", 16, max(1, self.settings.validation // 12))
        self.log(frames=frames, validation=found, background_cosine=cosine)
        for module in (self.model, self.partner):
            module.train()
            module.set_attn_implementation(SHARED_PREFIX)


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description="Train the second embedded model.")
    add = parser.add_argument
    add("--out", type=Path, required=True, help="folder of the run; resumed if it holds one")
    add("--vision-steps", type=int, default=4000)
    add("--vision-frames", type=int, default=48, help="frames of a step of the vision stage")
    add("--curriculum", default=CURRICULUM, help="frames:steps of each phase of the decoder stage")
    add("--tokens", type=int, default=8000, help="tokens of a step of the decoder stage; 100000 on a GPU")
    add("--vision-rate", type=float, default=1.5e-3)
    add("--decoder-rate", type=float, default=1.5e-3)
    add("--cooldown", type=float, default=0.25, help="last share of a stage, over which the rate falls")
    add(
        "--workers", type=int, default=0, help="processes that make batches; about all cores on a GPU machine"
    )
    add("--minutes", type=float, default=1e9, help="stop after so many minutes; the same command goes on")
    add("--save-every", type=float, default=3.0, help="minutes")
    add("--validate-every", type=float, default=30.0, help="minutes")
    add("--validation", type=int, default=96, help="questions of a validation")
    add("--start", type=Path, help="folder of an exported checkpoint that a new run begins from")
    add("--start-step", type=int, default=0, help="steps of the decoder stage that it has had")
    add("--seed", type=int, default=0)
    add("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    add("--threads", type=int, default=torch.get_num_threads(), help="threads on the CPU")
    return parser.parse_args()


def main() -> None:
    """Parse the command line and train."""
    args = parse()
    torch.set_num_threads(args.threads)
    torch.set_float32_matmul_precision("high")
    phases = tuple(tuple(map(int, phase.split(":"))) for phase in args.curriculum.split(","))
    settings = Settings(
        vision_steps=args.vision_steps,
        vision_frames=args.vision_frames,
        curriculum=phases,  # type: ignore[arg-type]
        tokens=args.tokens,
        rates={"vision": args.vision_rate, "decoder": args.decoder_rate},
        cooldown=args.cooldown,
        workers=args.workers,
        minutes=args.minutes,
        save_every=args.save_every,
        validate_every=args.validate_every,
        validation=args.validation,
        start=args.start,
        start_step=args.start_step,
    )
    Run(args.out, args.seed, args.device, settings).train()


if __name__ == "__main__":
    main()
