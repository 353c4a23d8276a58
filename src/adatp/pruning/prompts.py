"""Reads the prompts of one prefill: their layouts, the relevance of their frames, and the plan."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from adatp.adatp_steps.shielding import shielded
from adatp.errors import PruningError
from adatp.flops import DecoderShape
from adatp.layout import Grid, LayoutError, VideoLayout
from adatp.models import Family, TowerCall
from adatp.plan import Plan
from adatp.prefill import Prefill, PruningMethod
from adatp.pruning.padding import is_packed, real_tokens
from adatp.pruning.past import Past, past_of
from adatp.relevance import PromptRelevance, Signal

NOT_ENCODED = "the prompt comes in chunks, or its videos were encoded outside this context"
"""Why a prompt with places for a video is not pruned if no known call of the tower fills them."""


@dataclass(frozen=True, eq=False)
class Reading:
    """The prompts of one prefill.

    Attributes:
        layouts: one per prompt.
        grids: grids of all their videos.
        relevance: relevance of their frames; counts its own FLOPs.
        plan: the method's plan; None: nothing is pruned.
        past: the sequence before them.
        length: length of the batch's rows, pads included.
    """

    layouts: Sequence[VideoLayout]
    grids: Sequence[Grid]
    relevance: PromptRelevance
    plan: Plan | None
    past: Past
    length: int


@dataclass(frozen=True, eq=False)
class PromptReader:
    """Facts that all prefills of a context share.

    Attributes:
        method: the method that plans.
        config: the model's config.
        family: the model's family.
        shape: sizes of the decoder.
        signal: how relevance is measured.
        strict: see `adatp.methods.Method.__call__`.
    """

    method: PruningMethod
    config: Any
    family: Family
    shape: DecoderShape
    signal: Signal
    strict: bool = False

    @torch.no_grad()
    def read(
        self, arguments: dict[str, Any], embeds: Tensor, cache: Any, length: int, tower: TowerCall | None
    ) -> Reading:
        """Lay out the prompts and let the method plan.

        Args:
            arguments: arguments of the multimodal model's call.
            embeds: (B, L, d) the decoder's input.
            cache: the cache that the decoder reads the past from, if any.
            length: length of the cached sequence.
            tower: the call of the vision tower that encoded the videos; None: it is not known.

        Raises:
            LayoutError: they can't be laid out, so nothing can be pruned.
            PruningError: the call has no token ids.
            QuestionError: the number of questions given differs from the number of prompts.
            BudgetError: a prompt can't be brought down to the FLOPs target, and the context is strict.
        """
        with shielded(embeds.device):
            return self._read(arguments, embeds, cache, length, tower)

    def _read(
        self, arguments: dict[str, Any], embeds: Tensor, cache: Any, length: int, tower: TowerCall | None
    ) -> Reading:
        if arguments.get("input_ids") is None:
            raise PruningError("the videos' tokens are found by their ids: pass input_ids, not inputs_embeds")
        if tower is None:
            raise LayoutError(NOT_ENCODED)
        input_ids = arguments["input_ids"] = arguments["input_ids"].to(embeds.device)
        mask = arguments.get("attention_mask")
        real = real_tokens(mask, input_ids, length)
        if is_packed(arguments, real):
            raise LayoutError("several prompts in one row can't be pruned: pass one prompt a row, padded")
        grids = self.family.grids(self.config, arguments, tower)
        past = past_of(cache, length, mask, (len(input_ids), input_ids.shape[1]), self.shape.layers)
        layouts = [
            replace(layout, past=tokens, held=held)
            for layout, tokens, held in zip(
                self.family.layouts(self.config, arguments, real, grids), past.tokens, past.held, strict=True
            )
        ]
        self._check(layouts, length)
        features = self.family.frame_features(self.config, tower, grids)
        relevance = PromptRelevance(self.signal, layouts, input_ids, embeds, features)
        received: list[Tensor] = []
        if self.method.tower_attention:
            received = self.family.tower_attention(self.config, tower, grids)

        def frame_features(b: int) -> Tensor:
            return torch.cat([features[v].mean(1) for v in layouts[b].videos]).to(embeds.device)

        def tower_attention(b: int) -> Tensor:
            by_cell = torch.cat([received[v] for v in layouts[b].videos]).to(embeds.device)
            return by_cell[layouts[b].cell]

        prefill = Prefill(
            self.shape,
            layouts,
            frame_features,
            relevance,
            tower_attention,
            self.strict,
            relevance.frame_embeddings,
        )
        return Reading(layouts, grids, relevance, self.method.plan(prefill), past, input_ids.shape[1])

    def _check(self, layouts: Sequence[VideoLayout], past: int) -> None:
        self.method.check_layouts(layouts)
        if any(len(layout.index) and not len(layout.question) for layout in layouts):
            raise LayoutError("no text follows the video in this call, so nothing says what to keep")
        if past and len(layouts) > 1 and self.shape.mixer is not None:
            # A filler would lie between a sample's state and its next token.
            raise LayoutError("linear attention can't go on with several prompts that keep different tokens")
