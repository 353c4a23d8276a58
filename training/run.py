"""A training run: its state in a folder, its stages, its log."""

from __future__ import annotations

import json
import os
import time
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.progress import Progress, TextColumn, TimeRemainingColumn
from transformers import LlavaOnevisionForConditionalGeneration, PreTrainedModel, SiglipModel

from adatp.tiny.processor import TinyProcessor
from training.clips import CURRICULUM, FULL, REHEARSAL, Phase, clip_batch, thin
from training.decoder import decoder_loss
from training.model import build_model, build_relevance
from training.probes import build_probes
from training.shared_prefix import SHARED_PREFIX
from training.towers import graft_tower
from training.validation import validate
from training.vision import vision_batch, vision_loss

PEAK_RATE = {"vision": 1.5e-3, "decoder": 1.5e-3}
"""Stage -> learning rate at its highest, of Muon (matrices of the layers) and AdamW (everything else)."""


class Run:
    """The state of a training run in a folder, and its log.

    Attributes:
        stage: "vision", "decoder" or "done".
        step: Steps taken in the stage.
        spent: Seconds of training in each stage, over all sittings, without validation.
    """

    def __init__(self, out: Path, seed: int, device: str, start_from: Path | None = None):
        out.mkdir(parents=True, exist_ok=True)
        self.out, self.seed, self.device = out, seed, torch.device(device)
        torch.manual_seed(seed)
        self.processor = TinyProcessor()
        self.relevance = build_relevance(self.processor.tokenizer).to(self.device)
        self.model = build_model(self.processor.tokenizer).to(self.device)
        width = self.model.config.text_config.hidden_size
        self.probes = build_probes(width).to(self.device)
        self.stage, self.step = "vision", 0
        self.spent = {"vision": 0.0, "decoder": 0.0}
        if start_from is not None:
            self.relevance.load_state_dict(_weights(SiglipModel, start_from / "relevance"))
            self.model.load_state_dict(_weights(LlavaOnevisionForConditionalGeneration, start_from))
        file = out / "state.pt"
        saved: dict[str, Any] | None = None
        if file.exists():
            saved = torch.load(file, map_location=self.device, weights_only=True)
            self.stage, self.step, self.spent = saved["stage"], saved["step"], saved["spent"]
            self.relevance.load_state_dict(saved["relevance"])
            self.model.load_state_dict(saved["model"])
            self.probes.load_state_dict(saved["probes"])
        self.optimizers = self._optimizers()
        if saved is not None and self.stage != "done":
            for optimizer, state in zip(self.optimizers, saved["optimizers"], strict=True):
                optimizer.load_state_dict(state)

    def _optimizers(self) -> tuple[torch.optim.Optimizer, ...]:
        vision = self.stage == "vision"
        self.relevance.requires_grad_(vision)
        self.model.requires_grad_(not vision)
        self.probes.requires_grad_(not vision)
        if vision:
            self.model.model.multi_modal_projector.requires_grad_(True)
            self.model.get_input_embeddings().requires_grad_(True)
        else:
            self.model.model.vision_tower.requires_grad_(False)
        named = [
            x
            for m in (self.relevance, self.model, self.probes)
            for x in m.named_parameters()
            if x[1].requires_grad
        ]
        self.trained = [p for _, p in named]
        matrices = [p for name, p in named if ".layers." in name and p.ndim == 2]
        others = [p for name, p in named if not (".layers." in name and p.ndim == 2)]
        return (
            torch.optim.Muon(matrices, lr=0.0, weight_decay=0.02, adjust_lr_fn="match_rms_adamw"),
            torch.optim.AdamW(
                [
                    {"params": [p for p in others if p.ndim >= 2], "weight_decay": 0.02},
                    {"params": [p for p in others if p.ndim < 2], "weight_decay": 0.0},
                ],
                lr=0.0,
                betas=(0.9, 0.98),
            ),
        )

    def save(self) -> None:
        """Write the state in one atomic step: a kill leaves the old one or the new one, never half of one."""
        state = {
            "stage": self.stage,
            "step": self.step,
            "spent": self.spent,
            "relevance": self.relevance.state_dict(),
            "model": self.model.state_dict(),
            "probes": self.probes.state_dict(),
            "optimizers": [optimizer.state_dict() for optimizer in self.optimizers],
        }
        new = self.out / "state.pt.new"
        torch.save(state, new)
        os.replace(new, self.out / "state.pt")

    def log(self, **record: Any) -> None:
        """Append a record to the curves."""
        minutes = {stage: round(seconds / 60, 2) for stage, seconds in self.spent.items()}
        with (self.out / "log.jsonl").open("a") as file:
            file.write(
                json.dumps({"stage": self.stage, "step": self.step, "minutes": minutes, **record}) + "\n"
            )

    def update(self, loss: torch.Tensor, progress: float) -> None:
        """One optimiser step: warm up, hold, then decay to zero over the last 30 % of the time."""
        rate = PEAK_RATE[self.stage] * min(1.0, (self.step + 1) / 30, (1 - progress) / 0.3 + 0.02)
        for optimizer in self.optimizers:
            for group in optimizer.param_groups:
                group["lr"] = rate
            optimizer.zero_grad(set_to_none=True)
        torch.autograd.backward(loss)
        torch.nn.utils.clip_grad_norm_(self.trained, 1.0)
        for optimizer in self.optimizers:
            optimizer.step()
        self.step += 1

    def _loss(self, phase: Phase) -> tuple[torch.Tensor, dict[str, list[float]]]:
        seed = 1_000_000 * self.seed + self.step
        with torch.autocast(self.device.type, torch.bfloat16):
            if self.stage == "vision":
                return vision_loss(vision_batch(seed), self.relevance, self.model, self.processor)
            rng = np.random.default_rng((2, seed))
            at = CURRICULUM.index(phase)
            if at and rng.random() < REHEARSAL:
                phase = CURRICULUM[int(rng.integers(at))]
            batch = clip_batch(seed, phase)
            share = 1.0 if rng.random() < FULL else float(rng.uniform(0.0, 0.4))
            kept = thin(batch.shows, share, torch.Generator().manual_seed(seed)).to(self.device)
            return decoder_loss(batch, self.model, self.processor, self.probes, kept)

    def train(self, budgets: dict[str, float], validation: int) -> None:
        """Run the stages that are left.

        Args:
            budgets: Stage -> seconds of training.
            validation: Questions of a validation, which runs at the end of each phase.
        """
        self.model.set_attn_implementation(SHARED_PREFIX)
        self.relevance.set_attn_implementation(SHARED_PREFIX)
        with Progress(
            *Progress.get_default_columns()[:-1], TimeRemainingColumn(), TextColumn("{task.fields[now]}")
        ) as bar:
            for stage, budget in budgets.items():
                if self.stage == stage:
                    self._train_stage(budget, validation, bar)
        self.save()

    def _train_stage(self, budget: float, validation: int, bar: Progress) -> None:
        task = bar.add_task(self.stage, total=budget, now="")
        losses: list[float] = []
        scores: dict[str, list[float]] = defaultdict(list)
        saved = logged = time.monotonic()
        while self.spent[self.stage] < budget:
            began = time.monotonic()
            progress = self.spent[self.stage] / budget
            phase = next(phase for phase in CURRICULUM if progress < phase.until)
            loss, step_scores = self._loss(phase)
            self.update(loss, progress)
            now = time.monotonic()
            self.spent[self.stage] += now - began
            losses.append(loss.item())
            for name, values in step_scores.items():
                scores[name] += values
            bar.update(task, completed=self.spent[self.stage], now=f"step {self.step} loss {losses[-1]:.3f}")
            if now - logged > 30:
                self._log_means(phase, losses, scores)
                losses, logged = [], now
                scores.clear()
            if now - saved > 60:
                self.save()
                saved = now
            ends = self.spent[self.stage] / budget >= phase.until
            if self.stage == "decoder" and ends:
                self.save()
                self._validate(max(phase.frames, 4), validation)
                logged = saved = time.monotonic()
        if self.stage == "vision":
            graft_tower(self.model, self.relevance)
        self.stage = "decoder" if self.stage == "vision" else "done"
        self.step = 0
        self.optimizers = self._optimizers()
        self.save()

    def _log_means(self, phase: Phase, losses: list[float], scores: dict[str, list[float]]) -> None:
        means = {name: round(float(np.mean(hits)), 4) for name, hits in sorted(scores.items()) if hits}
        frames = phase.frames if self.stage == "decoder" else 1
        self.log(frames=frames, loss=round(float(np.mean(losses)), 4), train=means)

    def _validate(self, frames: int, n: int) -> None:
        """Log the accuracy on n validation questions, by the attention that users run."""
        self.model.eval()
        self.model.set_attn_implementation("sdpa")
        self.log(frames=frames, validation=validate(self.model, self.processor, "validation", frames, n))
        self.model.train()
        self.model.set_attn_implementation(SHARED_PREFIX)


def _weights(cls: type[PreTrainedModel], folder: Path) -> dict[str, torch.Tensor]:
    """The weights of a checkpoint folder, in fp32."""
    weights: dict[str, torch.Tensor] = cls.from_pretrained(folder, dtype=torch.float32).state_dict()
    return weights
