"""Random: the baseline that every method has to beat."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch

from adatp.budget import Schedule
from adatp.methods.base import Method
from adatp.methods.token_plan import Rule
from adatp.prefill import Prefill


@dataclass(frozen=True)
class Random(Method):
    """Uniformly random visual tokens, chosen before the first layer.

    Attributes:
        seed: seed of the choice, the same for every sample: a sample keeps the same tokens in any batch.
    """

    name: ClassVar[str] = "random"

    seed: int = 0

    def rule(self, prefill: Prefill, sample: int, schedule: Schedule) -> Rule:
        """Keep the first tokens of a random order."""
        generator = torch.Generator().manual_seed(self.seed)
        order = torch.randperm(len(prefill.layouts[sample].index), generator=generator)
        kept = order[: schedule.visual[-1]].sort().values
        return lambda cut: kept
