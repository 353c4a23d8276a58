"""Pruning methods: one file a method, one frozen dataclass each, found by name in ``METHODS``."""

from adatp.methods.adatp import AdaTP
from adatp.methods.base import GridError, Method
from adatp.methods.dycoke import DyCoke
from adatp.methods.fastv import FastV
from adatp.methods.fastvid import FastVID
from adatp.methods.framefusion import FrameFusion
from adatp.methods.prunevid import PruneVid
from adatp.methods.pyramiddrop import PyramidDrop
from adatp.methods.random import Random
from adatp.methods.token_plan import Choice, Cut, Rule
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


__all__ = [
    "METHODS",
    "AdaTP",
    "Choice",
    "Cut",
    "DyCoke",
    "FastV",
    "FastVID",
    "FrameFusion",
    "GridError",
    "Method",
    "PruneVid",
    "PyramidDrop",
    "Random",
    "Rule",
    "UniformFrames",
    "UniformGrid",
    "Vanilla",
    "VisionZip",
]
