"""The printed output of ``adatp doctor``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from rich.table import Table
from rich.text import Text

from adatp.cli.console import table_of
from adatp.units import amount, duration, memory

if TYPE_CHECKING:
    from adatp.doctor import Device, Footprint, Installation


def installation_table(installation: Installation, devices: Sequence[Device]) -> Table:
    """Versions, devices, attention, decoders and extras, one row each."""
    table = table_of("What")
    table.add_column("Found", overflow="fold")
    for name, version in installation.versions.items():
        table.add_row(name, Text(version))
    for device in devices:
        sizes = [size for size in (device.free, device.total) if size is not None]
        room = f"; {' of '.join(map(memory, sizes))} free" if len(sizes) == 2 else ""
        table.add_row("Device", Text(f"{device.name}: {device.description}{room}"))
    table.add_row("Attention", Text(", ".join(installation.attention)))
    able = [name for name, can in installation.decoders.items() if can]
    table.add_row("Decoders", Text(", ".join(able) or "none of the usual ones"))
    complete = [name for name, lacking in installation.extras.items() if not lacking]
    table.add_row("Extras", Text(", ".join(complete) or "none"))
    for name, lacking in installation.extras.items():
        if lacking:
            table.add_row(f"No {name}", Text(f"lacks {', '.join(lacking)}"))
    return table


def footprint_table(columns: dict[str, Footprint], rate: float) -> Table:
    """Memory, FLOPs and time of vanilla and of the pruned run, side by side.

    Args:
        columns: name -> cost of a request.
        rate: FLOPs per second.
    """
    table = table_of("Estimated", *columns)
    found = columns.values()
    table.add_row("Weights", *(memory(each.weights) for each in found))
    table.add_row("KV cache", *(memory(each.cache) for each in found))
    table.add_row("Activations, roughly", *(memory(each.activations) for each in found))
    table.add_row("Memory, all together", *(memory(each.memory) for each in found), end_section=True)
    table.add_row("FLOPs: decoder's prefill", *(amount(each.decoder_flops) for each in found))
    table.add_row("FLOPs: vision tower", *(amount(each.vision_flops) for each in found))
    table.add_row(
        "Time to the first token, at least",
        *(duration((each.decoder_flops + each.vision_flops) / rate) for each in found),
    )
    return table
