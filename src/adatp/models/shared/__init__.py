"""What several model families share: the usual ways to encode a video."""

from adatp.models.shared.frames_as_images import FramesAsImages
from adatp.models.shared.patch_grid import PatchGrid
from adatp.models.shared.square_frames import SelectedLayer, SquareFrames

__all__ = ["FramesAsImages", "PatchGrid", "SelectedLayer", "SquareFrames"]
