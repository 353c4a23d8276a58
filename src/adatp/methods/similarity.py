"""The maths that several methods share: choosing, sharing out, clustering. Tensors in, tensors out.

What becomes of tokens is written as their ``owner``: for each token the number of the token it is averaged
into; a kept token owns itself, -1 is dropped.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import accumulate, pairwise

import torch
import torch.nn.functional as F
from torch import Tensor


def top(scores: Tensor, keep: int) -> Tensor:
    """Indices of the ``keep`` highest scores (n,), ascending; equal ones: the earlier first, NaN last."""
    lowest_last = scores.nan_to_num(nan=-math.inf, posinf=math.inf, neginf=-math.inf)
    return lowest_last.argsort(descending=True, stable=True)[:keep].sort().values


def evenly(count: int, length: int) -> Tensor:
    """(count,) int64: indices spread evenly over ``length``, the middles of ``count`` equal parts of it."""
    return (torch.arange(count) * 2 + 1) * length // max(1, 2 * count)


def share_out(total: int, sizes: Sequence[int]) -> list[int]:
    """Split ``total`` in proportion to ``sizes``, remainders spread evenly; no share exceeds its size.

    Args:
        total: at most the sum of sizes.
        sizes: (S,) of the parts.
    """
    whole = max(1, sum(sizes))
    ends = [total * end // whole for end in accumulate(sizes, initial=0)]
    return [end - begin for begin, end in pairwise(ends)]


def pour(total: int, capacities: Sequence[int]) -> list[int]:
    """Split ``total`` as evenly as the capacities allow; what exceeds their sum is left over."""
    shares = [0] * len(capacities)
    left = total
    for done, part in enumerate(sorted(range(len(capacities)), key=lambda part: capacities[part])):
        shares[part] = min(capacities[part], left // (len(capacities) - done))
        left -= shares[part]
    return shares


def kept_of(owner: Tensor) -> tuple[Tensor, Tensor]:
    """The tokens that stay, ascending (k,), and for each token the index among them of its owner (n,), or -1.

    Args:
        owner: (n,) int64, see above.
    """
    stays = owner == torch.arange(len(owner), device=owner.device)
    number = stays.cumsum(0) - 1
    return stays.nonzero().squeeze(1), number[owner.clamp(min=0)].where(owner >= 0, -1)


def nearest(tokens: Tensor, targets: Tensor) -> Tensor:
    """For each token (n, d) the index of the target (m, d) of the highest cosine, the first of equal ones."""
    cosine = F.normalize(tokens.float(), dim=-1) @ F.normalize(targets.float(), dim=-1).T
    return cosine.argmax(-1)


def distances(x: Tensor) -> Tensor:
    """(n, n) Euclidean distances between the rows of x (n, d), over the square root of d."""
    # Not by a matrix product: that gives equal rows a distance, and duplicates are what videos are full of.
    x = x.float()
    return torch.cdist(x, x, compute_mode="donot_use_mm_for_euclid_dist") / math.sqrt(x.shape[-1])


def density_peaks(distance: Tensor, neighbours: int) -> Tensor:
    """How good a cluster centre each token is: dense around itself, and far from what is denser (DPC-KNN).

    Args:
        distance: (n, n), from ``distances``.
        neighbours: nearest tokens, itself included, over which the density is taken.

    Returns:
        (n,) float32. Of two equally dense tokens the earlier counts as denser.

    Source: Du et al. 2016, as PruneVid and FastVID use it; they break ties at random.
    """
    n = len(distance)
    near = distance.topk(min(neighbours, n), largest=False).values
    density = near.square().mean(-1).neg().exp()
    order = torch.arange(n, device=distance.device)
    denser = (density > density[:, None]) | ((density == density[:, None]) & (order < order[:, None]))
    separation = distance.masked_fill(~denser, math.inf).amin(-1)
    return density * separation.where(denser.any(-1), distance.max())


def cluster(x: Tensor, clusters: int, neighbours: int) -> tuple[Tensor, Tensor]:
    """DPC-KNN clustering.

    Args:
        x: (n, d).
        clusters: number of clusters, 1 .. n.
        neighbours: see ``density_peaks``.

    Returns:
        The centres, (clusters,) int64 ascending, and the cluster of each token, (n,) int64.
    """
    distance = distances(x)
    centres = top(density_peaks(distance, neighbours), clusters)
    owner = distance[:, centres].argmin(-1)
    owner[centres] = torch.arange(clusters, device=x.device)
    return centres, owner
