"""Computes the cost of a prefill and of its decode steps, and makes the report."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from operator import add
from typing import Any

import torch
from torch import Tensor

from adatp.flops import (
    DecoderShape,
    decode_flops,
    lm_head_flops,
    paper_macs,
    prefill_flops,
)
from adatp.models import Family
from adatp.prefill import PruningMethod
from adatp.pruning.prompts import Reading
from adatp.report import Flops, Report, Stopwatch


@dataclass(frozen=True, eq=False)
class RequestCost:
    """FLOPs of one request as a function of its decode steps.

    Attributes:
        shape: sizes of the decoder.
        prefill: FLOPs of everything but decoding.
        context: ``context[b][l]``: tokens of sample b that layer l holds before the first decode step.
        context_vanilla: ``context_vanilla[b]``: the same without pruning, in every layer.
    """

    shape: DecoderShape
    prefill: Flops
    context: Sequence[Sequence[int]]
    context_vanilla: Sequence[int]

    def __call__(self, steps: int) -> Flops:
        """FLOPs after this number of decode steps."""
        vanilla = ([n] * self.shape.layers for n in self.context_vanilla)
        return replace(
            self.prefill,
            decode=sum(decode_flops(self.shape, sample, steps) for sample in self.context),
            decode_vanilla=sum(decode_flops(self.shape, sample, steps) for sample in vanilla),
        )


@dataclass(frozen=True, eq=False)
class Accountant:
    """Facts that all reports of a context share.

    Attributes:
        method: the method that pruned.
        config: the model's config.
        family: the model's family.
        shape: sizes of the decoder.
        relevance: the relevance signal that plans read.
        every_logit: whether the model computes the logits of all the prompt's tokens, not only of the last.
    """

    method: PruningMethod
    config: Any
    family: Family
    shape: DecoderShape
    relevance: str
    every_logit: bool

    def report(
        self,
        reading: Reading,
        kept: list[list[Tensor]] | None,
        stopwatch: Stopwatch,
        *,
        tower_scoring: int = 0,
        vision_saved: int = 0,
    ) -> Report:
        """Make the report of one prefill.

        Args:
            reading: the prompts of the prefill.
            kept: ``kept[l][b]``: positions in the call that layer l processed; None: all of them.
            stopwatch: times of the request.
            tower_scoring: FLOPs of recording the vision tower's attention.
            vision_saved: FLOPs that the frames which were not encoded would have taken.
        """
        layouts, plan, past = reading.layouts, reading.plan, reading.past
        if kept is None or plan is None:
            kept = [[layout.real for layout in layouts]] * self.shape.layers
        kept = on_cpu(kept, offset=past.length)
        counts = [layout.counts for layout in layouts]
        held = [count.held_by(self.shape.layers) for count in counts]
        tokens = [[len(layer[b]) for layer in kept] for b in range(len(layouts))]
        by_prompt = [self._decoder(reading, b, each) for b, each in enumerate(tokens)]
        flops = self._prefill(reading, tokens, by_prompt)
        self._add_padded(flops, reading, tokens)
        flops.relevance = reading.relevance.flops
        flops.vision = self.family.vision_flops(self.config, reading.grids) + tower_scoring - vision_saved
        flops.vision_saved, flops.vision_scoring = vision_saved, tower_scoring
        prompts = [count.tokens for count in counts]
        return Report(
            method=self.method.name,
            settings=self.method.settings,
            merges=self.method.merges,
            relevance=self.relevance if plan is not None else "none",
            prompt_tokens=prompts,
            prompt_visual_tokens=[count.visual for count in counts],
            kept=kept,
            visual_tokens=[[len(p) - counts[b].other for b, p in enumerate(layer)] for layer in kept],
            notes=plan.notes() if plan is not None else [],
            cost=RequestCost(
                self.shape,
                flops,
                [[*map(add, *each)] for each in zip(tokens, held, strict=True)],
                [count.past + count.tokens for count in counts],
            ),
            stopwatch=stopwatch,
            past=past.length,
            prompt_flops=by_prompt,
        )

    def _decoder(self, reading: Reading, b: int, tokens: Sequence[int]) -> tuple[int, int]:
        """FLOPs of the decoder for sample b, with and without pruning; ``tokens[l]`` are those of layer l."""
        plan, shape, counts = reading.plan, self.shape, reading.layouts[b].counts
        scored = dict.fromkeys(plan.scored_of(b), len(plan.queries[b])) if plan is not None else {}
        return (
            prefill_flops(shape, tokens, scored, counts.held_by(shape.layers)),
            prefill_flops(shape, [counts.tokens] * shape.layers, None, counts.past),
        )

    def _prefill(
        self, reading: Reading, tokens: Sequence[Sequence[int]], by_prompt: Sequence[tuple[int, int]]
    ) -> Flops:
        """FLOPs of the decoder's part; ``tokens[b][l]`` are those of sample b in layer l."""
        flops, shape = Flops(), self.shape
        for b, layout in enumerate(reading.layouts):
            counts = layout.counts
            flops.decoder += by_prompt[b][0]
            flops.decoder_vanilla += by_prompt[b][1]
            flops.paper += paper_macs(shape, [n - counts.other for n in tokens[b]])
            flops.paper_vanilla += paper_macs(shape, [counts.visual] * shape.layers)
            flops.lm_head += lm_head_flops(shape, counts.tokens if self.every_logit else 1)
        return flops

    def _add_padded(self, flops: Flops, reading: Reading, tokens: Sequence[Sequence[int]]) -> None:
        """Add what the decoder really computes: every row has as many tokens as the longest."""
        plan, shape, layouts = reading.plan, self.shape, reading.layouts
        batch, length = len(layouts), reading.length
        lengths = [layout.counts.tokens for layout in layouts]
        by_layer = list(zip(*tokens, strict=True))  # pads go on until the first cut
        widths = [length if list(counts) == lengths else max(counts) for counts in by_layer]
        rows = max(map(len, plan.queries)) if plan is not None else 0
        scored = dict.fromkeys(plan.scored, rows) if plan is not None else {}
        slots = reading.past.slots_by(shape.layers)
        vanilla = prefill_flops(shape, [length] * shape.layers, None, reading.past.length)
        flops.decoder_padded = batch * prefill_flops(shape, widths, scored, slots)
        flops.decoder_padded_vanilla = batch * vanilla


def on_cpu(kept: Sequence[Sequence[Tensor]], offset: int) -> list[list[Tensor]]:
    """Positions by layer and sample, moved to the CPU and shifted by ``offset``, with one wait for the GPU.

    Layers that process the same tokens still share one tensor.
    """
    distinct = {id(positions): positions for layer in kept for positions in layer}
    joined = torch.cat(list(distinct.values())).cpu() + offset
    parts = torch.split(joined, [len(positions) for positions in distinct.values()])
    moved = dict(zip(distinct, (part.clone() for part in parts), strict=True))
    return [[moved[id(positions)] for positions in layer] for layer in kept]
