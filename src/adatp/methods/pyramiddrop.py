"""PyramidDrop (arXiv 2410.17247): fewer tokens from stage to stage of the decoder.

At the end of each stage a fixed ratio of the visual tokens stays: those that the last instruction token
attends to most.

What differs: the official code ranks with the queries and keys of the layer about to run, computed for this
purpose from its input states. We rank with the attention of the layer that has just run, as FastV does. The
official code renumbers the positions of the tokens left. We keep them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor
from typing_extensions import override

from adatp.budget import nearest_cut
from adatp.errors import SettingError
from adatp.flops import DecoderShape
from adatp.methods.base import Method
from adatp.methods.selection import top
from adatp.methods.token_plan import Cut


@dataclass(frozen=True)
class PyramidDrop(Method):
    """Keep a ratio lambda of the visual tokens at the end of each stage; solved: lambda.

    Attributes:
        stages: where stages end, as fractions of the decoder's depth.
    """

    name: ClassVar[str] = "pyramiddrop"
    tunable: ClassVar[Mapping[str, Sequence[Any]]] = {
        "stages": ((0.25, 0.5, 0.75), (0.1, 0.5, 0.75), (0.1, 0.3, 0.5))
    }

    stages: tuple[float, ...] = (0.25, 0.5, 0.75)

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.stages or not all(0 < stage < 1 for stage in self.stages):
            raise SettingError(f"stages end at fractions of the depth, between 0 and 1, not {self.stages}")

    def cuts(self, shape: DecoderShape) -> tuple[int, ...]:
        """The first layer of each stage except the first."""
        return tuple(sorted({nearest_cut(shape, round(stage * shape.layers)) for stage in self.stages}))

    def layer_counts(self, shape: DecoderShape, visual: int, x: int) -> Sequence[int]:
        """lambda = x / visual, to the power of the stages that end before a layer."""
        cuts = self.cuts(shape)
        stage_of = [sum(cut <= layer for cut in cuts) for layer in range(shape.layers)]
        return [max(1, visual * x**stage // visual**stage) for stage in stage_of]

    @override
    def choose(self, cut: Cut) -> Tensor:
        assert cut.log_scores is not None
        return top(cut.log_scores, cut.keep)
