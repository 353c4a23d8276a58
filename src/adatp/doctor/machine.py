"""The devices of this machine: their memory, and their speed of multiplication."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from pathlib import Path

import torch

from adatp.machine import cores

_LIMITS = ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes")
_USED = ("/sys/fs/cgroup/memory.current", "/sys/fs/cgroup/memory/memory.usage_in_bytes")


@dataclass(frozen=True)
class Device:
    """A device that torch can use.

    Attributes:
        name: torch's name, such as ``cuda:0``.
        description: kind of device in a few words.
        free: free bytes of memory; None if unknown.
        total: bytes of memory; None if unknown.
    """

    name: str
    description: str
    free: int | None
    total: int | None


def devices() -> list[Device]:
    """The devices of this machine. The CPU comes first."""
    free, total = _main_memory()
    found = [Device("cpu", f"{cores()} cores, {torch.get_num_threads()} threads", free, total)]
    for number in range(torch.cuda.device_count() if torch.cuda.is_available() else 0):
        properties = torch.cuda.get_device_properties(number)
        free, total = torch.cuda.mem_get_info(number)
        kind = f"{properties.name}, compute capability {properties.major}.{properties.minor}"
        found.append(Device(f"cuda:{number}", kind, free, total))
    if torch.backends.mps.is_available():
        found.append(Device("mps", "Apple GPU, shares the main memory", *_main_memory()))
    return found


def device_named(name: str) -> Device:
    """A device that torch can use, by name. ``cuda`` is the current one of several."""
    kind = torch.device(name)
    if name == "cuda":
        name = f"cuda:{torch.cuda.current_device()}"
    return next((each for each in devices() if each.name == name), Device(name, kind.type, None, None))


def matmul_rate(device: str, dtype: torch.dtype, seconds: float = 0.3) -> float:
    """FLOPs per second of square matrix products, the best of several runs.

    Args:
        device: a torch device.
        dtype: dtype of the matrices.
        seconds: approximate time to measure.
    """
    side = 4096 if torch.device(device).type == "cuda" else 768
    left, right = (torch.randn(side, side, device=device).to(dtype) for _ in range(2))
    best, end = float("inf"), time.perf_counter() + seconds
    _product(left, right)
    while True:
        begin = time.perf_counter()
        _product(left, right)
        now = time.perf_counter()
        best = min(best, now - begin)
        if now > end:
            return 2 * side**3 / best


def _product(left: torch.Tensor, right: torch.Tensor) -> None:
    """Multiply, and wait until the product is done."""
    (left @ right)[0, 0].item()


def _main_memory() -> tuple[int | None, int | None]:
    """Free and total bytes, within the limit of the container if there is one."""
    free, total = _meminfo()
    limit, used = _first_number(_LIMITS), _first_number(_USED)
    if limit is not None and used is not None and (total is None or limit < total):
        free, total = min(limit - used, limit if free is None else free), limit
    return free, total


def _meminfo() -> tuple[int | None, int | None]:
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
    except OSError:  # not Linux
        pages = os.sysconf("SC_PHYS_PAGES") if "SC_PHYS_PAGES" in getattr(os, "sysconf_names", {}) else None
        return None, None if pages is None else pages * os.sysconf("SC_PAGE_SIZE")
    sizes = {name: 1024 * int(size.split()[0]) for name, _, size in (line.partition(":") for line in lines)}
    return sizes.get("MemAvailable"), sizes.get("MemTotal")


def _first_number(paths: tuple[str, ...]) -> int | None:
    """The number in the first of the files that has one."""
    for path in paths:
        try:
            return int(Path(path).read_text())
        except (OSError, ValueError):  # no such file, or "max"
            continue
    return None
