"""FastV (arXiv 2403.06764): one cut by the attention of the last token.

As in the official code: the prompt's last token scores visual tokens by its attention in the last layer
before the cut, as the mean over heads. The tokens with the highest scores stay. What differs: kept tokens
keep their rotary positions in the cache too, and K scales with the depth.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor
from typing_extensions import override

from adatp.budget import check_scored_cut, scaled_cut
from adatp.flops import DecoderShape
from adatp.methods.base import Method
from adatp.methods.selection import top
from adatp.methods.token_plan import Cut


@dataclass(frozen=True)
class FastV(Method):
    """Keep the visual tokens that the last token attends to most after layer K; solved: their number.

    Attributes:
        layer: the paper's K, the layer before which tokens are dropped; None: 2 of 32 layers, others in
            proportion, or the nearest after full attention.
    """

    name: ClassVar[str] = "fastv"

    layer: int | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        check_scored_cut(self.layer)

    @override
    def cuts(self, shape: DecoderShape) -> tuple[int, ...]:
        return (scaled_cut(shape, 2, of=32) if self.layer is None else self.layer,)

    @override
    def choose(self, cut: Cut) -> Tensor:
        assert cut.log_scores is not None
        return top(cut.log_scores, cut.keep)
