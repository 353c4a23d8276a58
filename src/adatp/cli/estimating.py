"""Estimates the cost of a request from a config, for ``adatp doctor``."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from adatp.cli.console import progress
from adatp.cli.options import video_grid
from adatp.units import amount, memory

if TYPE_CHECKING:
    from adatp.doctor import Device, Footprint


@dataclass(frozen=True)
class Wanted:
    """What to estimate: the options of the command as given."""

    model: str
    flops: float
    frames: int
    size: str
    text_tokens: int
    max_new_tokens: int
    device: str
    dtype: str
    trusted: bool


@dataclass(frozen=True)
class Estimate:
    """Estimated cost of a request.

    Attributes:
        title: the model, its size, and the prompt's.
        columns: method -> its cost; vanilla comes first.
        rate: FLOPs per second of a matrix product on the device.
        device: the device that it would run on.
    """

    title: str
    columns: dict[str, Footprint]
    rate: float
    device: Device

    def verdict(self) -> str:
        """Whether it fits into the memory that is free now, and what to do if not."""
        name, free = self.device.name, self.device.free
        if free is None:
            return f"How much memory of {name} is free can't be known here."
        vanilla, pruned = (each.memory for each in self.columns.values())
        room = f"{memory(free)} of {name} are free"
        if vanilla <= free:
            return f"It fits: {room}."
        if pruned <= free:
            return f"It fits only pruned: {room}."
        return (
            f"It does not fit: {room}. Ask for fewer --frames, or take a smaller model, a --dtype of fewer "
            "bytes or another --device."
        )


def estimate(wanted: Wanted) -> Estimate:
    """Read the model's config, count what follows from it, and measure a matrix product."""
    from adatp.doctor import device_named, footprint, matmul_rate
    from adatp.flops import DecoderShape
    from adatp.layout import PromptCounts
    from adatp.methods import AdaTP
    from adatp.session.loading import count_parameters, load_config, pick_device, pick_dtype, source_of

    name, text = source_of(wanted.model), wanted.text_tokens
    with progress(f"looking up {name}"):
        config = load_config(name, wanted.trusted)
    place, dtype = pick_device(wanted.device), pick_dtype(config, wanted.dtype)
    grid = video_grid(config, wanted.frames, wanted.size)
    counts = PromptCounts(math.prod(grid), text, text)
    shape = DecoderShape.from_config(config.get_text_config())
    schedules = {
        title: AdaTP(flops=target).schedule(shape, counts)
        for title, target in (("vanilla", 1.0), (f"adatp, {wanted.flops:.1%}", wanted.flops))
    }
    parameters = count_parameters(name, config)
    columns = {
        title: footprint(config, parameters, grid, schedule, text, wanted.max_new_tokens, dtype.itemsize)
        for title, schedule in schedules.items()
    }
    rate = matmul_rate(place, dtype)
    kind = str(dtype).removeprefix("torch.")
    title = (
        f"{config.model_type}, {_count(parameters)} parameters, {kind}, {wanted.frames} frames: "
        f"{counts.visual} visual and {text} other tokens; {amount(rate)}FLOP/s on {place}"
    )
    return Estimate(title, columns, rate, device_named(place))


def _count(parameters: int) -> str:
    """Parameters as papers write them, such as ``8.29 B``."""
    return amount(parameters).replace("G", "B")
