"""The early stage's order: picks tokens of each frame so that few of them cover what the frame shows."""

import torch
from torch import Tensor
from torch.nn import functional as F

_PART = 1 << 24
"""Approximate number of float32 values held at a time."""

_LEAST = 1e-9
"""Of distances and lengths, so that the longer of equal tokens comes first."""


def pick(tokens: Tensor, there: Tensor, steps: int) -> tuple[Tensor, Tensor]:
    """Pick the tokens of each frame one after the other: the next is the one with the largest gain.

    The gain of a token is its length times its distance to the nearest token picked before it; the distance
    is one minus the cosine. So the tokens picked first cover what the frame shows, each large surface with
    one token. The length stands for how much a token says: plain surfaces have shorter embeddings than
    things. The first token has its nearest neighbour in the place of a token picked before it.

    Args:
        tokens: (T, P, d) projected tokens of T frames with P positions each.
        there: (T, P) bool, where there is a token.
        steps: how many tokens of each frame are picked, 1 to P.

    Returns:
        (T, P) int64, the rank of each token in its frame, from 0; ``steps`` for those not picked. And (T, P)
        float32, the least gain up to that token's turn; 0 for those not picked. It never rises with the rank.
        Cells without a token are picked last and gain nothing.

    Source: ours, after the choice of diverse tokens by FlashVID, which weighs by the tower's attention.
    """
    frames, places, _ = tokens.shape
    block = max(1, _PART // (places * max(places, tokens.shape[2])))
    found = [
        _pick(tokens[first : first + block].float(), there[first : first + block], steps)
        for first in range(0, frames, block)
    ]
    ranks, gains = zip(*found, strict=True)
    return torch.cat(ranks), torch.cat(gains)


def _pick(tokens: Tensor, there: Tensor, steps: int) -> tuple[Tensor, Tensor]:
    """The same for a block of frames, in float32."""
    frames, places, _ = tokens.shape
    tokens = tokens.nan_to_num()  # what is not a number says nothing
    unit = F.normalize(tokens, dim=-1)
    cosine = unit @ unit.transpose(1, 2)
    # What is not there is as far from everything as can be, and weighs nothing.
    distance = (1 - cosine).clamp(min=_LEAST).masked_fill(~there[:, None], 2)
    weight = tokens.norm(dim=-1).clamp(min=_LEAST).where(there, 0)
    itself = torch.eye(places, dtype=torch.bool, device=tokens.device)
    closest = distance.masked_fill(itself, 2).amin(2)
    picked, gains = [], []
    for step in range(steps):
        gain, best = (closest * weight).max(1, keepdim=True)
        picked.append(best)
        gains.append(gain)
        weight = weight.scatter(1, best, -1)  # below what others gain
        found = distance.gather(1, best[:, :, None].expand(-1, -1, places)).squeeze(1)
        closest = torch.minimum(closest, found) if step else found
    turns = torch.arange(steps, device=tokens.device).expand(frames, -1)
    order, least = torch.cat(picked, 1), torch.cat(gains, 1).cummin(1).values
    rank = torch.full((frames, places), steps, device=tokens.device).scatter(1, order, turns)
    return rank, least.new_zeros(frames, places).scatter(1, order, least)
