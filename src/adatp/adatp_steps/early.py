"""Which input embeddings tell something new: the early stage, before the decoder offers any attention."""

import torch
from torch import Tensor
from torch.nn import functional as F


def novelty(tokens: Tensor, tau_d: float) -> tuple[Tensor, Tensor]:
    """How unlike what is already told each token of one segment is.

    Frame by frame, a token is compared with the representatives of its spatial position so far. One whose
    cosine with all of them is below tau_d becomes a representative itself; others are near-duplicates.
    Novelty is one minus the highest cosine with those representatives and with the segment's mean direction,
    which stands for what the whole segment shows anyway. So a plain still background ranks last, its repeats
    behind its first frame, and what shows in one place for one frame ranks first.

    Args:
        tokens: (T, P, d) projected tokens of T frames with P positions each, in order of time.
        tau_d: threshold on the cosine.

    Returns:
        (T, P) float32 novelty, in [0, 2] up to rounding, and (T, P) bool, the representatives; those of the
        first frame are all.

    Source: ours.
    """
    unit = F.normalize(tokens.float(), dim=-1)
    alike = torch.einsum("tpd,spd->tps", unit, unit)
    closest = unit @ F.normalize(unit.mean((0, 1)), dim=-1)
    distinct = torch.ones_like(closest, dtype=torch.bool)
    for t in range(1, len(tokens)):
        told = alike[t, :, :t].masked_fill(~distinct[:t].T, -1).amax(1)
        distinct[t] = told < tau_d
        closest[t] = torch.maximum(closest[t], told)
    return 1 - closest, distinct
