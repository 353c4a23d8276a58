"""Takes, merges and puts back rows of hidden states and of related tensors. Tensors in, tensors out.

A batch whose rows keep different numbers of tokens is padded on the left with `FILLER`.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from adatp.plan import Selection

FILLER = -1
"""Marks a row of the batch that has no token at this place."""


def stack_rows(rows: Sequence[Tensor], fill: int = 0) -> Tensor:
    """(B, n) from rows of up to n elements; shorter ones are filled on the left."""
    longest = max(map(len, rows))
    filled = [F.pad(row, (longest - len(row), 0), value=fill) if len(row) < longest else row for row in rows]
    return torch.stack(filled) if len(filled) > 1 else filled[0][None]


def rows_of(positions: Tensor, alive: Tensor, width: int) -> Tensor:
    """Rows (k,) of ``positions`` in hidden states of ``width`` rows whose last ones are those of ``alive``.

    Args:
        positions: (k,) int64, all of them in ``alive``.
        alive: (n,) int64, ascending; fillers come before them.
        width: at least n.
    """
    rows, fillers = torch.searchsorted(alive, positions), width - len(alive)
    return rows + fillers if fillers else rows


def take_rows(states: Tensor, rows: Tensor) -> Tensor:
    """Take rows (B, n) int64 of states (B, L, ...)."""
    if len(rows) == 1:
        return states.index_select(1, rows[0].to(states.device))
    samples = torch.arange(len(rows), device=states.device)[:, None]
    return states[samples, rows.to(states.device)]


def merge_rows(states: Tensor, selection: Selection) -> Tensor:
    """Merge states (n, d) into the kept rows (k, d). Each is the mean of itself and its merged rows.

    Sums use at least float32. A row that nothing is merged into stays the same, bit by bit.
    """
    assert selection.into is not None
    into = selection.into.to(states.device)
    order = into.argsort(stable=True)
    order = order[int((into < 0).sum()) :]
    sizes = into[order].bincount(minlength=len(selection.kept))
    grouped = states[order].to(torch.promote_types(states.dtype, torch.float32))
    # Not index_add: on a GPU its order of summation, and so its rounding, changes from run to run.
    mean = torch.segment_reduce(grouped, "mean", lengths=sizes)
    return mean.to(states.dtype)


def scatter_rows(states: Tensor, index: Tensor, length: int) -> Tensor:
    """Put states (B, n, d) at their positions ``index`` (B, n) of ``length``; zeros elsewhere.

    Fillers (negative positions) are dropped.
    """
    index = index.to(states.device)
    samples = torch.arange(len(index), device=states.device)[:, None]
    full = states.new_zeros(len(index), length + 1, states.shape[2])
    full[samples, index.where(index >= 0, length)] = states
    return full[:, :length]


def gather_rotary(rotary: tuple[Tensor, ...], index: Tensor) -> tuple[Tensor, ...]:
    """Rotary embeddings (B or 1, L, d) at the positions ``index`` (B, n): each token keeps its own.

    transformers 5.5 has an extra leading axis for multimodal rotary embeddings, not merged yet.
    """
    rows = index.clamp(min=0)

    def gather(part: Tensor) -> Tensor:
        if len(rows) == 1:
            return part.index_select(-2, rows[0].to(part.device))
        part = part.expand(*part.shape[:-3], len(rows), -1, -1)
        at = rows.to(part.device)[..., None].expand(*part.shape[:-2], -1, part.shape[-1])
        return part.gather(-2, at)

    return tuple(gather(part) for part in rotary)


def gather_tokens(values: Tensor, index: Tensor) -> Tensor:
    """Take per-token values (B, L, ...) at the positions ``index`` (B, n).

    A filler gets the value of the first token.
    """
    return take_rows(values, index.clamp(min=0))


def contiguous_positions(position_ids: Tensor, index: Tensor) -> Tensor:
    """Position ids (..., L) for the positions ``index`` (B, n), without gaps.

    Only flash attention's check for packed sequences reads them. It would take gaps for several sequences.
    """
    steps = torch.arange(index.shape[1], device=position_ids.device)
    return position_ids[..., :1] + steps
