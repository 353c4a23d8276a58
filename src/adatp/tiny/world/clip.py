"""Defines a clip: things with their lifetimes, the cuts between scenes, and the frames that show them."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from .drawing import render


@dataclass(frozen=True)
class Thing:
    """One coloured shape and its life in the clip.

    Attributes:
        colour: A key of `COLOURS`.
        shape: One of `SHAPES`.
        radius: Half its height, in pixels.
        start: First frame that shows it.
        path: Its centre (row, column), in pixels, in each of the frames from `start` on.
        direction: A key of `DIRECTIONS` if it moves, else None.
        flash: Whether it is a short event of one or two frames rather than a resident of its scene.
    """

    colour: str
    shape: str
    radius: int
    start: int
    path: tuple[tuple[int, int], ...]
    direction: str | None
    flash: bool

    @property
    def stop(self) -> int:
        """One past the last frame that shows it."""
        return self.start + len(self.path)


@dataclass(frozen=True)
class Clip:
    """A clip with its ground truth.

    Attributes:
        n_frames: F.
        things: What is in it, by first frame.
        cuts: First frame of each scene; the first is 0.
        key: Seed of everything that is drawn: backgrounds, textures, noise.
        shifted: Whether it is drawn outside the training ranges.
    """

    n_frames: int
    things: tuple[Thing, ...]
    cuts: tuple[int, ...]
    key: tuple[int, ...] = field(repr=False)
    shifted: bool = False

    @cached_property
    def frames(self) -> NDArray[np.uint8]:
        """uint8 (F, 96, 96, 3), RGB; drawn when first asked for."""
        return render(self)


Description = tuple[str | None, str | None]
"""(colour, shape); None stands for any."""


def matches(thing: Thing, description: Description) -> bool:
    """Whether a thing fits a (colour, shape) description."""
    colour, shape = description
    return colour in (None, thing.colour) and shape in (None, thing.shape)


def evidence(clip: Clip, about: tuple[Description, ...]) -> NDArray[np.bool_]:
    """Which frames show a thing that fits one of the descriptions: bool (F,)."""
    shows = np.zeros(clip.n_frames, dtype=bool)
    for thing in clip.things:
        if any(matches(thing, description) for description in about):
            shows[thing.start : thing.stop] = True
    return shows
