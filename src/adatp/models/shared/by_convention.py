"""Families that follow transformers' conventions: the general rule lays their prompts out."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, ClassVar, cast

import torch
from torch import Tensor, nn
from typing_extensions import override

from adatp.layout import Grid
from adatp.models.family import TowerCall
from adatp.models.general.rule import GeneralRule


class ByConvention(GeneralRule):
    """The family's file adds the facts about the vision tower that the general rule can't know."""

    by_rule = False
    attention: ClassVar[str] = ""
    """Path of the attention module in the tower's last layer, from the multimodal model. Empty: not known."""

    @override
    def tower_attention_module(self, model: Any) -> nn.Module:
        if not self.attention:
            return super().tower_attention_module(model)
        module = model.base_model
        for name in self.attention.split("."):
            module = module[int(name)] if name.lstrip("-").isdigit() else getattr(module, name)
        return cast(nn.Module, module)

    @override
    def tower_attention(self, config: Any, tower: TowerCall, grids: Sequence[Grid]) -> list[Tensor]:
        """The mean over a token's patches, which are neighbours."""
        assert tower.received is not None
        tokens = [math.prod(grid) for grid in grids]
        return list(torch.split(tower.received.view(sum(tokens), -1).mean(1), tokens))
