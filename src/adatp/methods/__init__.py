"""Pruning methods: one file a method, one frozen dataclass each, found by name in ``METHODS``."""

from collections.abc import Iterable

from adatp.layout import VideoLayout
from adatp.methods.adatp import AdaTP
from adatp.methods.base import GridError, Method
from adatp.methods.dycoke import DyCoke
from adatp.methods.fastv import FastV
from adatp.methods.fastvid import FastVID
from adatp.methods.framefusion import FrameFusion
from adatp.methods.prunevid import PruneVid
from adatp.methods.pyramiddrop import PyramidDrop
from adatp.methods.random import Random
from adatp.methods.uniform_frames import UniformFrames
from adatp.methods.uniform_grid import UniformGrid
from adatp.methods.vanilla import Vanilla
from adatp.methods.visionzip import VisionZip

METHODS: dict[str, type[Method]] = {
    method.name: method
    for method in (
        AdaTP,
        Vanilla,
        Random,
        UniformFrames,
        UniformGrid,
        FastV,
        PyramidDrop,
        VisionZip,
        DyCoke,
        PruneVid,
        FastVID,
        FrameFusion,
    )
}


def check_frames(method: Method, layouts: Iterable[VideoLayout]) -> None:
    """Refuse a method that needs whole frames where tokens of some were left out.

    Raises:
        GridError: the method can't prune one of these prompts.
    """
    if method.whole_frames and method.flops < 1 and not all(layout.whole for layout in layouts):
        others = [name for name, kind in METHODS.items() if not kind.whole_frames]
        raise GridError(
            f"{method.name} needs every token of a frame, and the processor left out some: switch its "
            f"compression off, or use one of {', '.join(others)}"
        )


__all__ = [
    "METHODS",
    "AdaTP",
    "DyCoke",
    "FastV",
    "FastVID",
    "FrameFusion",
    "GridError",
    "Method",
    "PruneVid",
    "PyramidDrop",
    "Random",
    "UniformFrames",
    "UniformGrid",
    "Vanilla",
    "VisionZip",
    "check_frames",
]
