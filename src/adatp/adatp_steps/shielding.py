"""Keeps settings of the process away from the choice of tokens."""

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext

import torch

_HOST = torch.device("cpu")


@contextmanager
def shielded(device: torch.device) -> Iterator[None]:
    """Run the arithmetic that chooses tokens without ``torch.autocast`` and without a default device.

    Autocast would round cosines to 16 bits and mix types where results are collected. With
    ``torch.set_default_device("cuda")``, small counts that are read on the host would lie on the GPU. That
    code sets its own types, and names the device of what is not on the host.

    A default type has no such switch for one thread alone, so each tensor of floats names its type.

    Args:
        device: where the tensors are.
    """
    by_autocast = torch.is_autocast_enabled(device.type)
    elsewhere = torch.get_default_device() != _HOST
    with (
        torch.autocast(device.type, enabled=False) if by_autocast else nullcontext(),
        _HOST if elsewhere else nullcontext(),
    ):
        yield
