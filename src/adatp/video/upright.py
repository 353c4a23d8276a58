"""Turns and mirrors stored frames as the display matrix of a file asks."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from av.buffer import Buffer
from av.sidedata.sidedata import SideDataContainer
from av.video.frame import VideoFrame


@dataclass(frozen=True)
class Orientation:
    """One of the eight ways to lay a rectangle on its grid: transposed first, then flipped."""

    transposed: bool = False
    left_right: bool = False
    top_bottom: bool = False

    def apply(self, image: np.ndarray) -> np.ndarray:
        """The upright view of a stored (H, W, ...) image."""
        if self.transposed:
            image = image.swapaxes(0, 1)
        return image[:: -1 if self.top_bottom else 1, :: -1 if self.left_right else 1]


def orientation(frame: VideoFrame) -> Orientation:
    """Orientation of `frame` by its display matrix; as stored if it has none."""
    # frame.side_data would make a cycle: 4K frames would stay in memory until a garbage collection.
    try:
        data = SideDataContainer(frame).get("DISPLAYMATRIX")  # type: ignore[call-arg]
    except ValueError:  # PyAV has no name for data beside the matrix, such as a JPEG's EXIF
        return of_rotation(frame.rotation)
    if not isinstance(data, Buffer) or data.buffer_size < 36:
        return Orientation()
    return of_matrix(np.frombuffer(bytes(data), np.int32, 9).reshape(3, 3))


def of_rotation(degrees: int) -> Orientation:
    """The orientation nearest to a turn by some degrees, counterclockwise."""
    quarters = round(degrees / 90) % 4
    return Orientation(quarters % 2 == 1, left_right=quarters in (2, 3), top_bottom=quarters in (1, 2))


def of_matrix(matrix: np.ndarray) -> Orientation:
    """The orientation nearest to a (3, 3) display matrix of ISO 14496-12.

    A point (x, y), with y pointing down, is shown at (a x + c y, b x + d y). (a, b) and (c, d) are the first
    two numbers of the first two rows. Scale and position don't matter. A matrix that maps the frame to
    a line or a point (for example, all zeros) is ignored.
    """
    a, b, c, d = (float(number) for number in matrix[:2, :2].ravel())
    if a * d == b * c:
        return Orientation()
    if abs(b) + abs(c) > abs(a) + abs(d):
        return Orientation(transposed=True, left_right=c < 0, top_bottom=b < 0)
    return Orientation(left_right=a < 0, top_bottom=d < 0)
