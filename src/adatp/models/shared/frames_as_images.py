"""Families that receive frames as images, with a run of placeholders for each."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

from adatp.layout import Grid, LayoutError, runs
from adatp.models.family import TowerCall
from adatp.models.shared.square_frames import SquareFrames, copies


class FramesAsImages(SquareFrames):
    """All images of a prompt are the frames of its one video. Tokens between them are text.

    An image of one crop looks the same as a frame, so an image beside a video counts as one of its frames.
    """

    encoded_as: ClassVar[Literal["video", "image"]] = "image"

    def fewest_frames(self, processor: Any) -> int:
        """At least two: a lone frame looks the same as an image, whose tokens are never dropped."""
        return 2

    def grids(self, config: Any, call: Mapping[str, Any], tower: TowerCall | None) -> list[Grid]:
        """One video for each prompt that has images."""
        side = self.side(config)
        prompts = runs(call["input_ids"], config.image_token_id)
        if any(len(frames) == 1 or {*frames} - {side**2} for frames in prompts):
            raise LayoutError("a lone image, or one of several crops, is no video's frame")
        return [
            (len(frames), side, side)
            for frames in prompts[:: copies(sum(map(len, prompts)), tower)]
            if frames
        ]
