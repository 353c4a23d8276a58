"""Reads the prompts of one prefill: where their videos are, what matters to the question, what is planned."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from adatp.adatp_steps.precision import full_precision
from adatp.errors import PruningError
from adatp.flops import DecoderShape
from adatp.layout import Grid, LayoutError, VideoLayout
from adatp.models import Family, TowerCall
from adatp.plan import Plan
from adatp.prefill import Prefill, PruningMethod
from adatp.pruning.past import Past, past_of
from adatp.relevance import PromptRelevance, Signal

NOT_ENCODED = "the prompt comes in chunks, or its videos were encoded outside this context"
"""Why a prompt with places for a video is not pruned where no call of the tower is known to fill them."""


@dataclass(frozen=True, eq=False)
class Reading:
    """The prompts of one prefill.

    Attributes:
        layouts: one a prompt.
        grids: of all their videos.
        relevance: of their frames; counts its own FLOPs.
        plan: what the method wants done; None: nothing.
        past: the sequence before them.
        length: of the batch's rows, pads included.
    """

    layouts: Sequence[VideoLayout]
    grids: Sequence[Grid]
    relevance: PromptRelevance
    plan: Plan | None
    past: Past
    length: int


@dataclass(frozen=True, eq=False)
class PromptReader:
    """What is the same for all prefills of a context.

    Attributes:
        method: which plans.
        config: the model's.
        family: the model's.
        shape: the decoder's.
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
        """Lay out the prompts and have the method plan.

        Args:
            arguments: of the multimodal model's call.
            embeds: (B, L, d) what the decoder is about to read.
            cache: what the decoder reads the past from, if anything.
            length: of the sequence that is cached.
            tower: the call of the vision tower that encoded the videos; None: it is not known.

        Raises:
            LayoutError: they can't be laid out, so nothing can be pruned.
            PruningError: the call gives no token ids.
            QuestionError: the caller gave another number of questions than there are prompts.
            BudgetError: a prompt can't be brought down to the FLOPs target, and the context is strict.
        """
        with full_precision(embeds.device):
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
        if past and len(layouts) > 1 and self.shape.delta_net is not None:
            # A filler would lie between a sample's state and its next token.
            raise LayoutError("linear attention can't go on with several prompts that keep different tokens")


def real_tokens(attention_mask: Any, input_ids: Tensor, past: int) -> Tensor:
    """(B, L) bool: the tokens of a call that are not padding.

    Where the model is given masks of single queries, a token that does not see itself is padding. So is one
    that sees no other and that no other sees: whatever it is, it changes nothing.

    Args:
        attention_mask: as the model was given it: None, (B, past + L), (B, L) for what is not cached alone,
            (B or 1, heads, L, past + L), or masks by the type of layers.
        input_ids: (B, L).
        past: length of what is cached.
    """
    length = input_ids.shape[1]
    if isinstance(attention_mask, dict):  # a static cache's masks are made in advance
        attention_mask = attention_mask["full_attention"]  # a sliding window's leaves out what is far back
    if attention_mask is None:
        return torch.ones_like(input_ids, dtype=torch.bool)
    mask: Tensor = attention_mask.to(input_ids.device)
    if mask.ndim == 2:
        first = 0 if mask.shape[1] == length else past
        return mask[:, first : first + length].bool()
    seen = mask[:, 0]
    if seen.dtype != torch.bool:  # hidden is what has the lowest number, or minus infinity
        seen = seen > torch.finfo(seen.dtype).min / 2
    among = seen[:, :, past : past + length]
    own = among.diagonal(dim1=1, dim2=2)
    others = (seen.sum(2) > own) | (among.sum(1) > own)
    return (own & others).expand(len(input_ids), -1)
