"""Frame reuse: a frame similar to the last encoded one is not encoded and takes its features."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from adatp.errors import PruningError
from adatp.threads import PerThread
from adatp.tower_flops import siglip_vision_flops
from adatp.uncopied import Uncopied

# Towers that receive images (n, channels, height, width) and encode each by itself.
_FRAME_BY_FRAME = ("siglip_vision_model",)


class FrameReuse:
    """Lets a vision tower encode only frames that differ from the last encoded one.

    This is right because such a tower's output for an image depends on its pixels alone. Every video begins
    anew, so a batch encodes the frames that its videos encode one by one. Where frames come as images, nobody
    says where a video begins, and only identical ones are equal.

    Args:
        tower: the vision tower.
        threshold: a frame counts as equal if none of the tower's patches has changed by more than this: mean
            absolute difference of its pixels, in the processor's normalised units (SigLIP's go from -1 to 1).
            0: only identical frames are equal.

    Raises:
        PruningError: the tower does not encode every frame by itself, as one that merges frames in time.

    Attributes:
        skipped: frames of the tower's last call that it did not encode.
    """

    def __init__(self, tower: nn.Module, threshold: float) -> None:
        self.tower, self.threshold = tower, threshold
        self.config: Any = getattr(tower, "config", None)
        kind = getattr(self.config, "model_type", type(tower).__name__)
        if kind not in _FRAME_BY_FRAME:
            raise PruningError(
                f"reuse_frames needs a vision tower that looks at every frame by itself "
                f"({', '.join(_FRAME_BY_FRAME)}), not {kind}: leave it out"
            )
        self._present = _Present()
        self.handles: list[RemovableHandle] = []

    def install(self) -> None:
        """Put the hooks in place."""
        keep = self.handles.append
        keep(self.tower.register_forward_pre_hook(Uncopied(self._before), with_kwargs=True))
        keep(self.tower.register_forward_hook(Uncopied(self._after)))

    def remove(self) -> None:
        """Remove the hooks from the tower."""
        for handle in self.handles:
            handle.remove()
        self.handles, self._present = [], _Present()

    def note_videos(self, given: dict[str, Any]) -> None:
        """Note the frames of each video that comes next: (videos, frames, channels, height, width)."""
        shapes = [value.shape for value in given.values() if isinstance(value, Tensor)]
        self._present.frames = next((shape[1] for shape in shapes if len(shape) == 5), None)

    def spread(self, received: Tensor) -> Tensor:
        """What the encoded frames' patches received in the last call, (patches,), for all its frames."""
        source = self._present.source
        if source is None:
            return received
        frames = received.view(len(source) - self.skipped, -1)
        return frames[source.to(frames.device)].flatten()

    @property
    def skipped(self) -> int:
        """Frames of this thread's last call that were not encoded."""
        return self._present.skipped

    @property
    def saved_flops(self) -> int:
        """Real FLOPs that encoding the skipped frames would have taken."""
        return siglip_vision_flops(self.config, self.skipped)

    def _before(
        self, _: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
        pixels: Tensor = args[0] if args else kwargs["pixel_values"]
        present = self._present
        frames, present.frames = present.frames, None  # whatever follows in the same call is no video
        threshold = 0 if frames is None else self.threshold
        reference = reference_frames(pixels, threshold, self.config.patch_size, frames)
        encoded, present.source = torch.unique(torch.tensor(reference, device="cpu"), return_inverse=True)
        present.skipped = len(pixels) - len(encoded)
        if not present.skipped:
            present.source = None
            return None
        pixels = pixels[encoded.to(pixels.device)]
        if args:
            return (pixels, *args[1:]), kwargs
        return args, {**kwargs, "pixel_values": pixels}

    def _after(self, _: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        source = self._present.source
        if source is None:
            return
        for name, value in list(output.items()):
            output[name] = _take_rows(value, source)


class _Present(PerThread):
    """The tower's call that one thread is processing, or processed last."""

    frames: int | None = None  # of each video that the tower gets next
    source: Tensor | None = None  # for each frame, its row among the encoded ones; None: all are encoded
    skipped: int = 0


def _take_rows(value: Any, source: Tensor) -> Any:
    """Take rows ``source`` of a tensor, or of each tensor of a tuple (a tower may return None in some
    places).
    """
    if isinstance(value, tuple):
        return tuple(_take_rows(each, source) for each in value)
    return value if value is None else value[source.to(value.device)]


def reference_frames(pixels: Tensor, threshold: float, patch: int, frames: int | None = None) -> list[int]:
    """For each frame (T, channels, H, W), the index of the frame whose features it takes, often its own.

    Two frames differ by the patch that differs most, because a mean over the frame would miss a small new
    object. A frame is compared with the last encoded one, not with its neighbour, because slow changes add
    up.

    Args:
        pixels: of all videos, one after the other.
        threshold: see `FrameReuse`.
        patch: side of the tower's patches, in pixels.
        frames: number of frames of each video, whose first one takes its own features; None: it is one video.
    """
    reference = torch.zeros((), dtype=torch.int64, device=pixels.device)
    found = [reference]
    for number in range(1, len(pixels)):
        difference = pixels[number] - pixels.index_select(0, reference[None])[0]
        by_patch = F.avg_pool2d(difference.abs().mean(0, keepdim=True, dtype=torch.float32), patch)
        begins = frames is not None and number % frames == 0
        reference = reference.where((by_patch.max() <= threshold) & (not begins), number)
        found.append(reference)
    return torch.stack(found).tolist()  # the only wait for the GPU
