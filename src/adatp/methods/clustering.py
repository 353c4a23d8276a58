"""Similarity of tokens and clusters of similar ones. Tensors in, tensors out."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from adatp.methods.selection import top


def nearest(tokens: Tensor, targets: Tensor) -> Tensor:
    """For each token (n, d), the index of the most similar target (m, d); the first of equal ones."""
    cosine = F.normalize(tokens.float(), dim=-1) @ F.normalize(targets.float(), dim=-1).T
    return cosine.argmax(-1)


def distances(x: Tensor) -> Tensor:
    """(n, n) Euclidean distances between the rows of x (n, d), over the square root of d."""
    # Not a matrix product: it would give equal rows a distance above zero, and videos are full of duplicates.
    x = x.float()
    return torch.cdist(x, x, compute_mode="donot_use_mm_for_euclid_dist") / math.sqrt(x.shape[-1])


def density_peaks(distance: Tensor, neighbours: int) -> Tensor:
    """Score of each token as a cluster centre: high if dense and far from denser tokens (DPC-KNN).

    Args:
        distance: (n, n), from ``distances``.
        neighbours: number of nearest tokens, itself included, over which density is taken.

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
    """Cluster tokens with DPC-KNN (see ``density_peaks``).

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
