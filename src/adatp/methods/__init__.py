"""Pruning methods: one file and one frozen dataclass per method, found by name in ``METHODS``."""

from collections.abc import Callable

from adatp.methods.adatp import AdaTP
from adatp.methods.base import GridError, Method
from adatp.methods.dycoke import DyCoke
from adatp.methods.fastv import FastV
from adatp.methods.fastvid import FastVID
from adatp.methods.flashvid import FlashVID
from adatp.methods.framefusion import FrameFusion
from adatp.methods.holitom import HoliTom
from adatp.methods.prunevid import PruneVid
from adatp.methods.pyramiddrop import PyramidDrop
from adatp.methods.random import Random
from adatp.methods.sharp import ShaRP
from adatp.methods.token_plan import Choice, Cut, Rule
from adatp.methods.uniform_frames import UniformFrames
from adatp.methods.uniform_grid import UniformGrid
from adatp.methods.vanilla import Vanilla
from adatp.methods.vcast import VCast
from adatp.methods.vidcom2 import VidCom2
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
        HoliTom,
        VidCom2,
        FlashVID,
        VCast,
        ShaRP,
    )
}

VARIANTS: dict[str, Callable[..., Method]] = {"adatp-paper": AdaTP.paper}
"""Named settings of methods that have more than their default. Each entry makes the method for a FLOPs
target.
"""


def make_method(name: str, flops: float | None = None) -> Method:
    """A method or variant by name.

    Args:
        name: a key of `METHODS` or `VARIANTS`.
        flops: its FLOPs target, for one that has a target; None: its default.

    Raises:
        KeyError: there is none of that name.
    """
    kind = VARIANTS[name] if name in VARIANTS else METHODS[name]
    return kind() if flops is None else kind(flops=flops)


def has_target(name: str) -> bool:
    """Whether the method or variant of that name has a FLOPs target.

    Raises:
        KeyError: there is none of that name.
    """
    return name in VARIANTS or METHODS[name].flops is not None


__all__ = [
    "METHODS",
    "VARIANTS",
    "AdaTP",
    "Choice",
    "Cut",
    "DyCoke",
    "FastV",
    "FastVID",
    "FlashVID",
    "FrameFusion",
    "GridError",
    "HoliTom",
    "Method",
    "PruneVid",
    "PyramidDrop",
    "Random",
    "Rule",
    "ShaRP",
    "UniformFrames",
    "UniformGrid",
    "VCast",
    "Vanilla",
    "VidCom2",
    "VisionZip",
    "has_target",
    "make_method",
]
