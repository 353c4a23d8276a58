"""Restricts PyTorch's attention kernels in calls on a GPU whose layers differ in length.

On Hopper and Blackwell, PyTorch prefers cuDNN's kernel. It plans each new length of queries or keys for some
35 ms before it runs. Unpruned, a decode step has one new length that all layers share. Pruned, nearly every
layer has its own: a step of LLaVA-OneVision-7B on an H100 took 1,004 ms instead of 31. PyTorch's own flash
attention plans nothing.
"""

from __future__ import annotations

import threading
from typing import Any, cast

import torch

_switches = cast(Any, torch.backends.cuda)


class _Users:
    """Counts running calls that want no such plans. The first switches them off, the last on again."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.count = 0
        self.before = False

    def enter(self) -> None:
        with self.lock:
            if not self.count:
                self.before = _switches.cudnn_sdp_enabled()
                _switches.enable_cudnn_sdp(False)
            self.count += 1

    def leave(self) -> None:
        with self.lock:
            self.count -= 1
            if not self.count:
                _switches.enable_cudnn_sdp(self.before)


_users = _Users()


class NoPlannedKernels:
    """Keeps cuDNN's attention switched off for all calls of the process, from `__init__` to `end`."""

    def __init__(self) -> None:
        _users.enter()
        self._ended = False

    def end(self) -> None:
        """Switch it on again if it was on and no other call needs it off. Calling this twice is harmless."""
        if not self._ended:
            self._ended = True
            _users.leave()


def plans_lengths(device: torch.device) -> bool:
    """Whether PyTorch may use kernels on this device that need a plan for each length."""
    return device.type == "cuda"
