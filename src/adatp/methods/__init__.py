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
]
