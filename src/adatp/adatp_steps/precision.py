"""The precision that tokens are chosen in."""

from contextlib import AbstractContextManager, nullcontext

import torch


def full_precision(device: torch.device) -> AbstractContextManager[object]:
    """Keep ``torch.autocast`` from the arithmetic that chooses tokens, which chose its types itself.

    Autocast would round cosines to 16 bits, and mixes types where results are collected.

    Args:
        device: where the tensors are.
    """
    if not torch.is_autocast_enabled(device.type):
        return nullcontext()
    return torch.autocast(device.type, enabled=False)
