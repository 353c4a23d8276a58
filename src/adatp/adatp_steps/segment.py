"""Cuts a video into segments of similar frames."""

import torch
from torch import Tensor
from torch.nn import functional as F


def segment_frames(features: Tensor, tau_s: float) -> Tensor:
    """Segment id of each frame: neighbouring frames whose features are similar share a segment.

    Frames t and t+1 are joined when cos(g_t, g_t+1) >= tau_s, or when they are equal. Equality matters for
    blank frames, whose cosine is undefined, and for tau_s = 1. Only neighbours are compared, so a scene that
    returns later is a new segment. A frame with non-finite features is similar to no other.

    Args:
        features: (T, d), one vector per frame, of any floating type.
        tau_s: threshold on the cosine; the paper's value is 0.95.

    Returns:
        (T,) int64, from 0, ascending by at most one from frame to frame.

    Source: the paper's rule.
    """
    g = features.float()
    joined = F.cosine_similarity(g[:-1], g[1:], dim=-1) >= tau_s
    joined |= (g[:-1] == g[1:]).all(dim=-1)
    segment = torch.zeros(len(g), dtype=torch.int64, device=g.device)
    segment[1:] = (~joined).cumsum(0)
    return segment
