"""The errors of files that can't be read as a video."""

from __future__ import annotations

from adatp.errors import AdaTPError

CUT_SHORT = "the video is cut short or damaged; copy or download it again"
NO_VIDEO = "not a video, or of a kind that is not supported; convert it to MP4, MKV, WebM or AVI"
NO_STREAM = "no video stream in it (audio only?); give a file with pictures"
NO_DECODER = "no decoder for its video codec; convert it, to H.264 for example"
WEBP = "WebP is not supported; convert it to MP4, MKV, WebM or GIF"
ENCRYPTED = "the video is encrypted; give a copy without encryption"
GROWS = "its frames grow beyond the limit of size on the way; scale it down"
NO_MEMORY = "not enough memory for its frames; ask for fewer frames or scale the video down"


class VideoError(AdaTPError, ValueError):
    """A file that can't be read as a video. The message is one line that says what to do."""


class UnreadableError(Exception):
    """The reason why a file is refused, without its name. This error never leaves the package."""


def too_large(width: int, height: int, most_pixels: float) -> UnreadableError:
    """The error for frames above the limit of `read_video`."""
    limit = f"the limit is {most_pixels / 1e6:.1f} million"
    return UnreadableError(f"{width}x{height} pixels a frame, {limit}; scale it down")
