"""Names for a thing of a clip that fit no other thing."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from .clips import Clip, Scene, Thing


@dataclass(frozen=True)
class Name:
    """A name that only one thing of the clip has.

    Attributes:
        thing: Its number in `Clip.things`.
        colour: The colour that the name says, or None.
        shape: The shape that the name says, or None.
        place: The place that the name says, or None.
    """

    thing: int
    colour: str | None
    shape: str | None
    place: str | None = None

    @property
    def text(self) -> str:
        """The name in words, as "red thing in the forest"."""
        words = f"{self.colour} {self.shape}" if self.colour and self.shape else self.shape
        return (words or f"{self.colour} thing") + (f" in the {self.place}" if self.place else "")


def fits(thing: Thing, colour: str | None, shape: str | None) -> bool:
    """Whether a thing ever has a colour and a shape; None stands for any."""
    return any(colour in (None, look[0]) and shape in (None, look[1]) for look in thing.looks)


def only_place(clip: Clip, thing: Thing) -> Scene | None:
    """The scene that holds all of a thing's life, outside its soft changes; None if none does."""
    scene = clip.scene_at(thing.start)
    return scene if scene.start + scene.fade <= thing.start and thing.stop <= scene.stop else None


def may_be_in(clip: Clip, thing: Thing, scene: Scene) -> bool:
    """Whether a thing is visible in any frame that shows a scene's place, soft changes included."""
    after = [other.fade for other in clip.scenes if other.start == scene.stop]
    return thing.start < scene.stop + sum(after) and scene.start < thing.stop


def plain_names(clip: Clip) -> list[Name]:
    """Every thing that can be recognised and keeps its look, under each name that only it has.

    The names are its shape, its colour, and both together.
    """
    names = []
    for i, thing in enumerate(clip.things):
        if thing.turn is not None or not clip.visible(thing):
            continue
        colour, shape = thing.look
        shape_alone = sum(fits(other, None, shape) for other in clip.things) == 1
        colour_alone = sum(fits(other, colour, None) for other in clip.things) == 1
        if shape_alone:
            names.append(Name(i, None, shape))
        if colour_alone:
            names.append(Name(i, colour, None))
        if not (shape_alone and colour_alone):
            names.append(Name(i, colour, shape))
    return names


def placed_names(clip: Clip) -> Iterator[Name]:
    """Names by place, such as "star in the forest", of things whose colour or shape also occurs elsewhere."""
    for i, thing in enumerate(clip.things):
        scene = only_place(clip, thing)
        if scene is None or thing.turn is not None or not clip.visible(thing):
            continue
        here = [other for other in clip.things if may_be_in(clip, other, scene)]
        for colour, shape in ((thing.look[0], None), (None, thing.look[1])):
            everywhere = sum(fits(other, colour, shape) for other in clip.things)
            if everywhere > 1 and sum(fits(other, colour, shape) for other in here) == 1:
                yield Name(i, colour, shape, scene.place)
