"""Defines what the library needs to know about a model family: the base class of all families."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, nn

from adatp.layout import Grid, VideoLayout, build_layouts

Times: TypeAlias = NDArray[np.float64]
"""Seconds at which the frames of a video were shown, ascending."""


@dataclass(frozen=True, eq=False)
class TowerCall:
    """The call of the vision tower that encoded a batch's videos.

    Attributes:
        kwargs: its keyword arguments.
        output: its return value.
        received: (patches,) float32 attention that each patch received in `Family.tower_attention_module`, in
            the order in which that module ran them. None: it was not recorded.
        shapes: shapes of the floating-point tensors among its arguments, by name.
    """

    kwargs: Mapping[str, Any]
    output: Any
    received: Tensor | None = None
    shapes: Mapping[str, tuple[int, ...]] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class EncoderMethod:
    """A method of a module that encodes videos, watched instead of a vision tower.

    Attributes:
        owner: the module.
        name: name of the method.
        read: extracts from its return value, at once, what to keep: callers may change the value afterwards.
    """

    owner: nn.Module
    name: str
    read: Callable[[Any], Any]


class Family(ABC):
    """Everything that is specific to one model family. Register a subclass with `adatp.models.register`.

    The base classes in `adatp.models.shared` cover the usual ways to encode a video: `SquareFrames`,
    `SelectedLayer`, `FramesAsImages` and `PatchGrid`.

    Arguments that several methods take:

    - ``model``: the model that generates. ``model.base_model`` is the multimodal model in it.
    - ``config``: its config.
    - ``call``: the keyword arguments of ``model.base_model``'s forward, always with ``input_ids`` (B, L).
    - ``tower``: the call of the vision tower that encoded the videos. None: it was not watched, so the answer
      has to come from ``call`` alone.
    - ``grids``: (frames, rows, columns) of the tokens of each video of the batch, in the prompts' order.
    """

    encoded_as: ClassVar[Literal["video", "image"]] = "video"
    """The forward's input: a video, or frames as images. With ``image``, all images of a prompt count as
    the frames of its one video.
    """

    by_rule: ClassVar[bool] = False
    """Whether this is the general rule, not a registered family."""

    joined_along: ClassVar[Mapping[str, int]] = {}
    """Inputs of the forward that several prompts' are joined along another axis than the first: its axis."""

    def of(self, model: Any) -> Family:
        """The family for this particular model."""
        return self

    def register_classes(self) -> None:
        """Register the models with transformers' auto classes, if transformers has no classes for them."""
        return

    # --- the vision tower ---

    def encoder(self, model: Any) -> EncoderMethod | None:
        """The method to watch if no known module encodes videos; None: `tower` is watched."""
        return None

    @abstractmethod
    def tower(self, model: Any) -> nn.Module:
        """The vision tower: the module that is called once for all the videos of a batch."""

    def lone_tower(self, model: Any) -> nn.Module | None:
        """The tower, if its output depends on the videos alone and can be cached; else None."""
        return self.tower(model)

    @abstractmethod
    def tower_attention_module(self, model: Any) -> nn.Module:
        """The attention module in the tower's layer whose output is projected."""

    @abstractmethod
    def frame_features(self, config: Any, tower: TowerCall, grids: Sequence[Grid]) -> list[Tensor]:
        """The tower's features before the projector, (frames, patches, d) for each video."""

    @abstractmethod
    def tower_attention(self, config: Any, tower: TowerCall, grids: Sequence[Grid]) -> list[Tensor]:
        """``tower.received``, pooled to the grid's cells in the same way as the features: (cells,) for
        each video.
        """

    @abstractmethod
    def vision_flops(self, config: Any, grids: Sequence[Grid]) -> int:
        """Real FLOPs of encoding the videos, tower and projector."""

    # --- the tokens in the prompt ---

    @abstractmethod
    def grid(self, config: Any, frames: int, height: int, width: int) -> Grid:
        """The token grid of one video with this number of frames and size in pixels, from the config
        alone.
        """

    @abstractmethod
    def grids(self, config: Any, call: Mapping[str, Any], tower: TowerCall | None) -> list[Grid]:
        """The token grid of each encoded video.

        Raises:
            LayoutError: the call does not determine it, or what it encodes is no video.
        """

    def layouts(
        self, config: Any, call: Mapping[str, Any], real: Tensor, grids: Sequence[Grid]
    ) -> list[VideoLayout]:
        """Layout of the visual tokens of each sample.

        The default is right if every placeholder of the config's id is a visual token, or `cells` describes
        it. Tokens between placeholders are text.

        Args:
            config: see the class.
            call: see the class.
            real: (B, L) bool, False on padding.
            grids: see the class.

        Raises:
            LayoutError: the prompts hold another number of placeholders than the grids require.
        """
        images = self.encoded_as == "image"
        return build_layouts(
            call["input_ids"],
            real,
            grids,
            video_token_id=config.image_token_id if images else config.video_token_id,
            not_text=() if images else [config.image_token_id, getattr(config, "audio_token_id", -1)],
            cells=self.cells(call, grids),
        )

    def cells(self, call: Mapping[str, Any], grids: Sequence[Grid]) -> list[Tensor] | None:
        """The grid cell that each placeholder shows, (placeholders,) int64 for each video.

        Cells are counted row by row, frame by frame. `adatp.layout.NO_CELL` marks a placeholder that shows
        none, such as a newline. None: every cell has its placeholder, and there are no others.
        """
        return None

    # --- the processor ---

    def takes_videos(self, processor: Any) -> bool:
        """Whether the checkpoint's processor takes videos. If not, it gets every frame as an image."""
        return True

    def fewest_frames(self, processor: Any) -> int:
        """The fewest frames that the processor accepts and the model does not take for an image.

        A shorter video is extended with its last frame.
        """
        return 1

    def processor_options(self, processor: Any, *, every_token: bool = False) -> dict[str, Any]:
        """Keyword arguments for the processor's call, in addition to text, videos and their metadata.

        Args:
            processor: the checkpoint's processor.
            every_token: whether every frame has to keep all its tokens, although the processor would leave
                some out.
        """
        return {}

    def place_in_time(self, config: Any, inputs: Mapping[str, Any], times: Sequence[Times]) -> dict[str, Any]:
        """Inputs in which each frame has its own time, if the processor can't express it.

        Args:
            config: see the class.
            inputs: the processor's output for one prompt.
            times: (frames,) for each video.
        """
        return dict(inputs)


def decoder_of(model: Any) -> Any:
    """The text model with ``layers`` in a model that generates. Some have it in a text model with a head."""
    decoder = model.get_decoder()
    return decoder if hasattr(decoder, "layers") else decoder.get_decoder()
