"""Running means that gather on the device: nothing waits for it until they are read."""

from __future__ import annotations

import torch


class Scores:
    """Sums and counts by name.

    Attributes:
        sums: Name -> sum of the values, and how many they are, both scalars on the device.
    """

    def __init__(self) -> None:
        self.sums: dict[str, tuple[torch.Tensor, torch.Tensor]] = {}

    @torch.no_grad()
    def add(self, name: str, values: torch.Tensor, mask: torch.Tensor | None = None) -> None:
        """Add values, or those of them where a mask of their shape is true."""
        values = values.detach().float()
        if mask is None:
            total, count = values.sum(), values.new_tensor(values.numel())
        else:
            total, count = (values * mask).sum(), mask.sum()
        if name in self.sums:
            total, count = total + self.sums[name][0], count + self.sums[name][1]
        self.sums[name] = (total, count)

    def means(self) -> dict[str, float]:
        """The mean of every name that has values, rounded, by name."""
        pairs = {name: (float(total), float(count)) for name, (total, count) in sorted(self.sums.items())}
        return {name: round(total / count, 4) for name, (total, count) in pairs.items() if count}
