"""Keeps the choice of tokens in full precision."""

from contextlib import AbstractContextManager, nullcontext

import torch


def full_precision(device: torch.device) -> AbstractContextManager[object]:
    """Keep ``torch.autocast`` away from the arithmetic that chooses tokens; that code sets its own types.

    Autocast would round cosines to 16 bits and mix types where results are collected.

    Args:
        device: where the tensors are.
    """
    if not torch.is_autocast_enabled(device.type):
        return nullcontext()
    return torch.autocast(device.type, enabled=False)
