"""Base classes for several model families: the usual ways to encode a video."""

from adatp.models.shared.by_convention import ByConvention
from adatp.models.shared.frames_as_images import FramesAsImages
from adatp.models.shared.patch_grid import PatchGrid
from adatp.models.shared.pooled_afterwards import PooledAfterwards
from adatp.models.shared.square_frames import SelectedLayer, SquareFrames
from adatp.models.shared.windowed import WindowedPatches

__all__ = [
    "ByConvention",
    "FramesAsImages",
    "PatchGrid",
    "PooledAfterwards",
    "SelectedLayer",
    "SquareFrames",
    "WindowedPatches",
]
