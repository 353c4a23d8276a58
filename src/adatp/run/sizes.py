"""Sizes of videos, by which a run that goes on knows the videos that it has answered questions about."""

from __future__ import annotations

import os

from adatp.video import VideoError
from adatp.video.addresses import is_address
from adatp.video.folder import images_of


def size_of(path: str) -> int | None:
    """Bytes of a video's file, or of all images of its folder.

    A size costs no reading, and unlike a time it is the same on another machine.

    Args:
        path: a path, or an address on the web.

    Returns:
        None for an address, and for what can't be read.
    """
    if is_address(path):
        return None
    try:
        if os.path.isdir(path):
            return sum(image.stat().st_size for image in images_of(path))
        return os.stat(path).st_size
    except (OSError, ValueError, VideoError):
        return None
