"""Videos, images and sounds as users give them, and the part of a video that a processor shows the model."""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any, TypeAlias, cast

import numpy as np
import torch
from numpy.typing import NDArray

from adatp.errors import first_line, is_out_of_memory
from adatp.session.errors import PromptError
from adatp.video import Fit, Video, read_source

VideoLike: TypeAlias = "str | os.PathLike[str] | Video | NDArray[np.uint8] | torch.Tensor"
"""One video: a file, a folder of frame images or an address on the web (see `adatp.video.read_source`); a
`Video`; or frames (F, H, W, 3), uint8, RGB. Frames without times count as one per second.
"""

ImageLike: TypeAlias = "str | os.PathLike[str] | NDArray[np.uint8] | torch.Tensor | Any"
"""One image: a file; pixels (H, W, 3), uint8, RGB; or an image of pillow."""

SoundLike: TypeAlias = "NDArray[Any] | torch.Tensor"
"""One sound: (samples,), float, mono, at the sampling rate of the model's processor."""


def videos_of(videos: VideoLike | Sequence[Any] | None, frames: int, fit: Fit | None = None) -> list[Video]:
    """Read one video or several.

    Args:
        videos: one `VideoLike`; a list of them; a list of frames (H, W, 3), which is one video; or None.
        frames: how many to sample from a file. Arrays of frames are used as they are.
        fit: decides the size at which the frames of a file are kept (see `read_video`).

    Raises:
        VideoError: a file can't be read as a video.
        PromptError: frames are not uint8 (F, H, W, 3).
    """
    if videos is None:
        return []
    if isinstance(videos, str | os.PathLike | Video | np.ndarray | torch.Tensor):
        return [video_of(videos, frames, fit)]
    if not isinstance(videos, Iterable):
        raise PromptError(f"a video is a file, a folder, an address or frames, not {videos!r}")
    videos = list(videos)
    if videos and all(getattr(video, "ndim", 0) == 3 for video in videos):
        return [video_of(_stacked(videos), frames, fit)]
    return [video_of(video, frames, fit) for video in videos]


def video_of(video: VideoLike | Sequence[Any], frames: int, fit: Fit | None = None) -> Video:
    """Read one video (see `videos_of`)."""
    if isinstance(video, Video):
        return video
    if isinstance(video, str | os.PathLike):
        return read_source(video, frames, fit=fit)
    if not isinstance(video, np.ndarray | torch.Tensor):
        video = _stacked(video)
    pixels = _pixels(video, 4, "a video's frames are", "(F, H, W, 3)")
    count = len(pixels)
    return Video(pixels, np.arange(count, dtype=float), duration=float(count), fps=1.0)


def images_of(images: ImageLike | Sequence[ImageLike]) -> list[NDArray[np.uint8]]:
    """Read one image or several (see `image_of`)."""
    given = cast(Any, images)
    is_path, is_pillow = isinstance(given, str | os.PathLike), hasattr(given, "convert")
    alone = is_path or is_pillow or getattr(given, "ndim", 0) == 3
    return [image_of(image) for image in ([given] if alone else given)]


def image_of(image: ImageLike) -> NDArray[np.uint8]:
    """Read one image, (H, W, 3).

    Raises:
        PromptError: it can't be read, or is not uint8 (H, W, 3).
    """
    if isinstance(image, str | os.PathLike):
        try:
            from PIL import Image
        except ImportError:
            raise PromptError('image files need pillow: pip install "adatp[hub]"') from None
        try:
            with Image.open(image) as file:
                return np.array(file.convert("RGB"))
        except Exception as error:  # pillow's readers raise any kind
            if is_out_of_memory(error):
                raise
            raise PromptError(f"{image}: can't be read as an image ({first_line(error)})") from error
    if hasattr(image, "convert"):  # an image of pillow
        return np.array(image.convert("RGB"))
    return _pixels(image, 3, "an image is", "(H, W, 3)")


def sound_of(sound: SoundLike) -> NDArray[np.float32]:
    """Read one sound, (samples,) float32.

    Raises:
        PromptError: it is no float array of one axis, or has infinite numbers.
    """
    if isinstance(sound, torch.Tensor) and sound.is_floating_point():
        sound = sound.detach().float()  # numpy has no bfloat16
    array = sound.cpu().numpy() if isinstance(sound, torch.Tensor) else np.asarray(sound)
    if array.ndim != 1 or not array.size or array.dtype.kind != "f" or not np.isfinite(array).all():
        raise PromptError(
            f"a sound is finite floats of shape (samples,), not {array.dtype} of shape {array.shape}"
        )
    return array.astype(np.float32)


def _stacked(frames: Sequence[Any]) -> NDArray[Any]:
    try:
        return np.stack([np.asarray(frame) for frame in frames])
    except (ValueError, TypeError) as error:
        raise PromptError(f"these frames don't make a video ({first_line(error)})") from error


def _pixels(pixels: Any, axes: int, what: str, shape: str) -> NDArray[np.uint8]:
    given = pixels if isinstance(pixels, torch.Tensor) else np.asarray(pixels)
    kind, sides = str(given.dtype).removeprefix("torch."), tuple(given.shape)
    if given.ndim != axes or sides[-1] != 3 or kind != "uint8" or 0 in sides:
        raise PromptError(f"{what} uint8 of shape {shape}, not {kind} of shape {sides}")
    return given.cpu().numpy() if isinstance(given, torch.Tensor) else given


def visible_part(processor: Any, video: Video) -> Video:
    """The part of a video's frames that the model receives, to draw on: some processors cut out the middle.

    Args:
        processor: the checkpoint's processor.
        video: frames (F, H, W, 3), as they are put into a prompt.

    Returns:
        The video with its frames cropped, or padded with black, as the processor does it; not resized.
    """
    reader = getattr(processor, "video_processor", None)
    if not getattr(reader, "do_center_crop", False):
        return video
    height, width = video.frames.shape[1:3]
    size, crop = cast(Any, reader).size, cast(Any, reader).crop_size
    if size.height:
        scales = size.height / height, size.width / width
    else:
        longest = (size.longest_edge or math.inf) / max(height, width)
        scales = (min(size.shortest_edge / min(height, width), longest),) * 2
    frames = video.frames
    for axis, (inside, scale) in enumerate(zip((crop.height, crop.width), scales, strict=True), 1):
        wanted, there = round(inside / scale), frames.shape[axis]
        cut = max(0, (there - wanted) // 2)
        frames = frames.take(range(cut, min(there, cut + wanted)), axis)
        missing = max(0, wanted - there)
        frames = np.pad(
            frames, [(missing // 2, missing - missing // 2) if a == axis else (0, 0) for a in range(4)]
        )
    return replace(video, frames=frames)
