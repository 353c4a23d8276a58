"""Prefills without a model, and plans run as an engine does, to test methods with."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor

from adatp.flops import DecoderShape
from adatp.layout import Grid, build_layouts
from adatp.methods.grouping import split_by_video
from adatp.methods.token_plan import TokenPlan
from adatp.prefill import Prefill

SHAPE = DecoderShape(layers=12, hidden=192, heads=6, kv_heads=2, head_dim=32, intermediate=512, vocab=300)
TINY = [(16, 6, 6)]
BEFORE, BETWEEN, QUESTION = 3, 1, 5


def with_gaps(videos: Sequence[Grid], full: float, seed: int) -> tuple[Prefill, Tensor]:
    """The prefill of a prompt with these videos whose cells have tokens with a chance of ``full``."""
    generator = torch.Generator().manual_seed(seed)
    there = [torch.rand(t * r * c, generator=generator) < full for t, r, c in videos]
    for video in there:
        video[0] |= not video.any()  # a video without any token is none
    cells = [video.nonzero().squeeze(1) for video in there]
    count = sum(map(len, cells))
    ids = torch.tensor([[1] * BEFORE + [9] * count + [1] * QUESTION])
    layouts = build_layouts(ids, ids > 0, videos, video_token_id=9, cells=cells)
    states = torch.randn(ids.shape[1], 8, generator=generator)
    states[states[:, 0] > 0] = states[0].clone()
    attention, frames = torch.rand(count, generator=generator), sum(t for t, _, _ in videos)
    features = torch.randn(frames, 8, generator=generator)
    prefill = Prefill(
        shape=SHAPE,
        layouts=layouts,
        frame_features=lambda _: features,
        relevance=lambda _: None,
        tower_attention=lambda _: attention,
    )
    return prefill, states


def prefill_of(*samples: Sequence[Grid], seed: int = 0, pads: int = 0) -> tuple[Prefill, list[Tensor]]:
    """A prefill of prompts with these videos, and the input embeddings of each; half the tokens repeat."""
    generator = torch.Generator().manual_seed(seed)
    rows, embeds = [], []
    for grids in samples:
        ids = [1] * BEFORE
        for t, r, c in grids:
            ids += [9] * (t * r * c) + [2] * BETWEEN
        rows.append(ids + [1] * QUESTION)
    length = max(map(len, rows)) + pads
    ids = torch.tensor([[0] * (length - len(row)) + row for row in rows])
    layouts = build_layouts(ids, ids > 0, [grid for grids in samples for grid in grids], video_token_id=9)
    for layout in layouts:
        states = torch.randn(length, 8, generator=generator)
        for numbers in split_by_video(layout, layout.index):
            for earlier, later in pairwise(numbers):
                still = torch.rand(len(later), generator=generator) < 0.5
                noise = 0.05 * torch.randn(int(still.sum()), 8, generator=generator)
                states[later[still]] = states[earlier[still]] + noise
        embeds.append(states)
    attention = [torch.rand(len(layout.index), generator=generator) for layout in layouts]
    features = [
        torch.cat([states[:0], *(video.mean(1) for video in split_by_video(layout, states[layout.index]))])
        for layout, states in zip(layouts, embeds, strict=True)
    ]
    prefill = Prefill(
        shape=SHAPE,
        layouts=layouts,
        frame_features=features.__getitem__,
        relevance=lambda _: None,
        tower_attention=attention.__getitem__,
    )
    return prefill, embeds


def run_plan(plan: TokenPlan, sample: int, embeds: Tensor, seed: int = 0) -> list[Tensor]:
    """What each layer processes; merged as an engine does, states stay what they are but for that."""
    generator = torch.Generator().manual_seed(seed)
    alive, layers = plan.real[sample], []
    hidden = embeds[alive]
    for layer in range(SHAPE.layers):
        if layer in plan.cuts:
            scored = layer - 1 in plan.scored
            scores = torch.rand(len(alive), generator=generator) if scored else None
            selection = plan.select(layer, sample, alive, scores, hidden)
            check_selection(alive, selection.kept, selection.into)
            rows = torch.searchsorted(alive, selection.kept)
            if selection.into is not None:
                hidden = torch.stack(
                    [hidden[selection.into == number].mean(0) for number in range(len(rows))]
                )
            else:
                hidden = hidden[rows]
            alive = selection.kept
        layers.append(alive)
    return layers


def check_selection(alive: Tensor, kept: Tensor, into: Tensor | None) -> None:
    assert kept.dtype == torch.int64
    assert (kept[1:] > kept[:-1]).all()
    assert torch.isin(kept, alive).all()
    if into is not None:
        assert into.shape == alive.shape
        assert into.min() >= -1
        assert into.max() < len(kept)
        assert torch.equal(into[torch.searchsorted(alive, kept)], torch.arange(len(kept)))
