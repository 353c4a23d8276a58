"""Pruning methods: one file and one frozen dataclass per method, found by name in ``METHODS``."""

from collections.abc import Callable
from typing import Any

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


NAMES: tuple[str, ...] = (*METHODS, *VARIANTS)
"""Every name that `make_method` knows."""


def method_class(name: str) -> type[Method]:
    """The class of the method or variant of that name. Its `flops` is None if it has no FLOPs target.

    Raises:
        KeyError: there is none of that name.
    """
    return type(VARIANTS[name]()) if name in VARIANTS else METHODS[name]


def make_method(name: str, flops: float | None = None, **settings: Any) -> Method:
    """A method or variant by name.

    Args:
        name: one of `NAMES`.
        flops: its FLOPs target, for one that has a target; None: its default.
        settings: its further parameters.

    Raises:
        KeyError: there is none of that name.
        ValueError: a value is out of range.
        TypeError: it has no such parameter.
    """
    if flops is not None:
        settings["flops"] = flops
    return VARIANTS[name](**settings) if name in VARIANTS else METHODS[name](**settings)


__all__ = [
    "METHODS",
    "NAMES",
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
    "make_method",
    "method_class",
]
