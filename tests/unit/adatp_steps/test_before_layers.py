"""Choosing an exact number of tokens before a decoder's first layer, against the same rule by plain loops."""

from __future__ import annotations

import math
from itertools import pairwise, product

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from adatp.adatp_steps.before_layers import Thresholds, choose_before_layers, kept_tokens
from adatp.adatp_steps.coverage import pick
from adatp.adatp_steps.debias import segment_weights
from adatp.adatp_steps.relevance import embedding_relevance
from adatp.integrations.vllm.positions import Offsets, attach
from pretend_gpu import PretendedGPU


@pytest.mark.parametrize(
    ("tokens", "keep", "kept"),
    [(100, 1 - 0.9, 10), (100, 0.25, 25), (7, 0.5, 3), (3, 0.01, 1), (8, 1.0, 8), (1, 0.5, 1), (4, 0.0, 1)],
)
def test_how_many_stay(tokens: int, keep: float, kept: int) -> None:
    assert kept_tokens(tokens, keep) == kept


def scenes(seed: int, lengths: tuple[int, ...], places: int = 6, width: int = 16) -> Tensor:
    """(T, P, d): in each scene tokens that stand still, but for one that changes in every frame."""
    random = torch.Generator().manual_seed(seed)
    parts = []
    for number, length in enumerate(lengths):
        still = torch.randn(places, width, generator=random) + 20 * torch.eye(width)[number]
        scene = still + 0.01 * torch.randn(length, places, width, generator=random)
        scene[:, number % places] = torch.randn(length, width, generator=random)
        parts.append(scene)
    return torch.cat(parts)


def by_loops(
    tokens: Tensor, keep: int, rule: Thresholds, relevance: Tensor | None, there: Tensor
) -> list[int]:
    """The rule as its docstring says it."""
    frames, places, _ = tokens.shape
    pooled = [tokens[t].sum(0) / max(1, int(there[t].sum())) for t in range(frames)]
    segment = [0]
    for one, other in pairwise(pooled):
        same = F.cosine_similarity(one, other, dim=0) >= rule.tau_s
        segment.append(segment[-1] + (not same))
    unit = F.normalize(tokens, dim=-1)
    distinct = torch.zeros(segment[-1] + 1, dtype=torch.int64)
    for s, p in product(range(len(distinct)), range(places)):
        known: list[int] = []
        for t in [t for t in range(frames) if segment[t] == s and there[t, p]]:
            if all(float(unit[t, p] @ unit[k, p]) < rule.tau_d for k in known):
                known.append(t)
        distinct[s] += len(known)
    lengths = torch.tensor([segment.count(s) for s in range(len(distinct))])
    pooled_relevance = None
    if relevance is not None:
        means = [
            relevance[[t for t in range(frames) if segment[t] == s]].mean() for s in range(len(distinct))
        ]
        pooled_relevance = torch.stack(means)
    asked = distinct * segment_weights(pooled_relevance, rule.tau_r, distinct)
    demand = rule.even / frames + (1 - rule.even) * (asked / asked.sum() / lengths)[segment]
    ranks, _ = pick(tokens, there, places)
    turns = []
    for t, p in product(range(frames), range(places)):
        if there[t, p]:
            rank, opens = int(ranks[t, p]), t == 0 or segment[t] != segment[t - 1]
            turns.append((rank > 0, rank > 0 or not opens, (rank + 0.5) / float(demand[t]), t * places + p))
    chosen = sorted(cell for *_, cell in sorted(turns)[:keep])
    number = (there.flatten().cumsum(0) - 1).tolist()
    return [number[cell] for cell in chosen]


@pytest.mark.parametrize("holes", [False, True], ids=["all there", "with holes"])
@pytest.mark.parametrize("asked", [False, True], ids=["question-free", "by question"])
@pytest.mark.parametrize("lengths", [(8,), (3, 5), (1, 6, 2)])
def test_by_plain_loops(lengths: tuple[int, ...], asked: bool, holes: bool) -> None:
    tokens, random = scenes(len(lengths), lengths), torch.Generator().manual_seed(1)
    frames, places, _ = tokens.shape
    there = torch.ones(frames, places, dtype=torch.bool)
    if holes:
        there[1:, 2] = torch.rand(frames - 1, generator=random) > 0.5
        tokens = tokens * there[..., None]
    relevance = torch.rand(frames, generator=random) if asked else None
    for keep in (1, 2, 5, 17, int(there.sum())):
        found = choose_before_layers(tokens, keep, Thresholds(), relevance, there if holes else None)
        assert found.tolist() == by_loops(tokens, keep, Thresholds(), relevance, there)


def test_each_scene_is_shown_before_any_is_shown_twice() -> None:
    kept = choose_before_layers(scenes(0, (20, 2, 2)), 3, Thresholds())
    assert [int(token) // 6 >= 20 for token in kept] == [False, True, True]


def test_relevance_moves_the_budget() -> None:
    tokens, frame = scenes(0, (6, 6)), torch.arange(12)
    first, second = (
        choose_before_layers(tokens, 10, Thresholds(tau_r=0.5), relevance) // 36
        for relevance in (-frame.float(), frame.float())
    )
    assert int((first == 0).sum()) > 5 > int((second == 0).sum())


def test_what_is_not_a_number_is_no_error() -> None:
    tokens = scenes(0, (4,))
    tokens[1, 2] = math.nan
    assert len(choose_before_layers(tokens, 7, Thresholds())) == 7


def test_none_of_a_videos_tokens_may_stay() -> None:
    assert choose_before_layers(scenes(0, (4,)), 0, Thresholds()).tolist() == []


def test_nothing_waits_for_a_gpu() -> None:
    """From a video's embeddings to its rows in a batch, by question."""
    tokens, frame = scenes(0, (4, 3, 5)), torch.arange(12).repeat_interleave(6)
    positions, is_media = torch.arange(24).expand(3, -1).clone(), torch.arange(24) < 20
    alone = choose_before_layers(tokens, 20, Thresholds(), torch.arange(12.0))
    with PretendedGPU(watched="adatp") as gpu:
        video, frame, relevance = gpu.put(tokens), gpu.put(frame), gpu.put(torch.arange(12.0))
        positions, offsets = gpu.put(positions), Offsets()
        embedding_relevance(video[0], video.flatten(0, 1), frame, 12)
        kept = choose_before_layers(video, 20, Thresholds(), relevance)
        rows = attach(video.flatten(0, 1)[kept], gpu.put(torch.ones(72, 3, dtype=torch.int64))[kept])
        offsets.take([rows], is_media, 16)
        offsets.add_to(positions)
        assert gpu.launches
        assert not gpu.waits
        kept = kept.cpu()
        assert gpu.waits
    assert torch.equal(kept, alone)
