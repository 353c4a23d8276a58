"""Muon for many small matrices: matrices of one shape are orthogonalised together."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from typing import Any

import torch


def orthogonalise(matrices: torch.Tensor, steps: int = 5) -> torch.Tensor:
    """Bring the singular values of matrices near one, by Newton-Schulz iterations (Jordan et al., Muon).

    Args:
        matrices: (n, rows, columns).
        steps: Iterations.

    Returns:
        bfloat16 (n, rows, columns).
    """
    tall = matrices.shape[-2] > matrices.shape[-1]
    x = (matrices.mT if tall else matrices).bfloat16()
    x = x / (x.norm(dim=(-2, -1), keepdim=True) + 1e-7)
    for _ in range(steps):
        square = x @ x.mT
        x = 3.4445 * x + (-4.7750 * square + 2.0315 * square @ square) @ x
    done: torch.Tensor = x.mT if tall else x
    return done


class Muon(torch.optim.Optimizer):
    """Momentum, orthogonalised, with the update's size that AdamW would have (0.2 a root mean square).

    Args:
        parameters: Matrices.
        lr: Learning rate, on AdamW's scale.
        momentum: Nesterov momentum.
        weight_decay: Decoupled, on the learning rate's scale.
    """

    def __init__(
        self,
        parameters: Iterable[torch.nn.Parameter],
        lr: float = 0.0,
        momentum: float = 0.95,
        weight_decay: float = 0.02,
    ) -> None:
        super().__init__(parameters, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        """Take one step; `closure` must be None."""
        for group in self.param_groups:
            by_shape: dict[torch.Size, list[torch.Tensor]] = defaultdict(list)
            for parameter in group["params"]:
                if parameter.grad is not None:
                    by_shape[parameter.shape].append(parameter)
            for shape, parameters in by_shape.items():
                gradients = torch.stack([p.grad for p in parameters if p.grad is not None])
                for p in parameters:
                    if "momentum" not in self.state[p]:
                        self.state[p]["momentum"] = torch.zeros_like(p)
                stored = [self.state[p]["momentum"] for p in parameters]
                momenta = torch.stack(stored)
                momenta.lerp_(gradients, 1 - group["momentum"])
                updates = orthogonalise(gradients.lerp(momenta, group["momentum"]))
                size = 0.2 * max(shape) ** 0.5 * group["lr"]
                torch._foreach_copy_(stored, list(momenta.unbind()))
                torch._foreach_mul_(parameters, 1 - group["lr"] * group["weight_decay"])
                torch._foreach_add_(parameters, list(updates.to(parameters[0].dtype).unbind()), alpha=-size)
