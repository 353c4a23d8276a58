"""The interface between a method, which decides, and the engine, which carries out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from torch import Tensor


@dataclass(frozen=True, eq=False)
class Selection:
    """What happens to the tokens at one cut.

    Attributes:
        kept: (k,) int64, ascending: the positions that go on, out of those alive.
        into: (n,) int64, for each token alive the index in ``kept`` of the token that its hidden state is
            averaged into, -1 where it is dropped; kept tokens point to themselves. None: plain dropping.
    """

    kept: Tensor
    into: Tensor | None = None


class Plan(Protocol):
    """A method's decisions for one call of the decoder. Positions are columns of the call's tokens.

    Attributes:
        real: per sample, the positions that are not padding, ascending int64.
        queries: per sample, the positions of the query rows to score; they must never be dropped.
        scored: layers whose attention the plan reads.
        cuts: layers before which tokens may be dropped; before layer 0 they are input embeddings. The number
            of layers may be among them, for plans that read the last layer's scores.
    """

    real: Sequence[Tensor]
    queries: Sequence[Tensor]
    scored: frozenset[int]
    cuts: frozenset[int]

    def select(
        self, layer: int, sample: int, alive: Tensor, log_scores: Tensor | None, hidden: Tensor
    ) -> Selection:
        """Choose the positions that ``layer`` and all later layers process, out of ``alive``.

        Args:
            layer: the layer about to run.
            sample: number of the sample.
            alive: (n,) int64 positions that the layer before processed, ascending.
            log_scores: (n,) float64 logarithm of the attention they received there, mean over heads and query
                rows; None if that layer is not in ``scored``, as always before layer 0.
            hidden: (n, d) their hidden states before ``layer``; must not be changed.
        """
        ...

    def scored_of(self, sample: int) -> frozenset[int]:
        """The layers in ``scored`` whose attention this sample's own cuts need."""
        ...

    def notes(self) -> list[dict[str, Any]]:
        """For each sample, facts to report beyond the kept tokens, as plain numbers and lists."""
        ...
