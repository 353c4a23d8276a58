"""Texts that the partner learns to match with frames: captions, none of them worded like a question asked.

The partner represents a SigLIP that was not trained on the benchmark. So it learns from sentences of other
forms (`TEMPLATES`). Pairs of colour and shape for which `held_out` is true never occur as a pair.
"""

from __future__ import annotations

from dataclasses import dataclass
from random import Random

from adatp.scenes.clips import Clip
from adatp.scenes.vocabulary import COLOURS, PLACES, SHAPES

TEMPLATES = (
    "a photo of a {}",
    "an image with a {} in it",
    "{}",
    "here we see a {}",
    "look at this {} !",
    "this picture has a {} , and some other things",
    "the {} can be seen here",
    "a view : {}",
    "do you see the {} ?",
    "can you find a {} ?",
    "this is how the {} looks",
    "what a small {} there is !",
    "that one is the {} , is it not ?",
    "one frame of a video that shows the {}",
    "where we look , the {} is near",
    "who moves the {} ?",
    "many a time the {} has come and gone",
    "in the middle or not : a {}",
    "which image has the {} ?",
    "how does a {} look ?",
)
PLACE_TEMPLATES = (
    "a photo of the {}",
    "the {}",
    "an image from the {}",
    "we are at the {} here",
    "this scene is a {}",
    "some {} in this picture",
    "a camera looks over the {}",
    "this was shown in the {} , any time of the day",
    "is this a {} ?",
    "the {} , bright or dark",
)
JOINED = ("{} in the {}", "{} , {}", "{} over the {}", "{} with the {} under it", "{} that the {} is behind")


def held_out(colour: str, shape: str) -> bool:
    """Whether the partner never reads of this pair: one in seven."""
    return (list(COLOURS).index(colour) + 3 * SHAPES.index(shape)) % 7 == 0


@dataclass(frozen=True)
class Caption:
    """A text and what a frame must show to fit it; None stands for anything.

    Attributes:
        text: The words.
        colour: Of a thing in the frame.
        shape: Of the same thing.
        place: Of the frame.
        dot: Colour of a dot on the same thing.
    """

    text: str
    colour: str | None
    shape: str | None
    place: str | None
    dot: str | None = None

    def matches(self, place: str | None, looks: list[tuple[str, str, str | None]]) -> bool:
        """Whether a frame with this place and these things (colour, shape, dot) fits."""
        if self.place is not None and place != self.place:
            return False
        if self.colour is None and self.shape is None and self.dot is None:
            return True
        return any(
            self.colour in (None, colour) and self.shape in (None, shape) and self.dot in (None, dot)
            for colour, shape, dot in looks
        )


def frame_content(clip: Clip, t: int) -> tuple[str | None, list[tuple[str, str, str | None]]]:
    """The place of frame t (None in a soft change) and its visible things as (colour, shape, dot)."""
    scene = clip.scene_at(t)
    looks = []
    for thing in clip.things:
        if t in clip.visible(thing):
            dot = thing.dot[0] if thing.dot is not None and thing.dot[1][0] <= t < thing.dot[1][1] else None
            looks.append((*thing.look_at(t), dot))
    return (None if t < scene.start + scene.fade else scene.place), looks


def caption(rng: Random, place: str | None, looks: list[tuple[str, str, str | None]]) -> Caption:
    """A caption for a frame, or now and then one for something it need not show."""
    if not looks or rng.random() < 0.12:
        looks = [(rng.choice(list(COLOURS)), rng.choice(SHAPES), None)]
    colour, shape, dot = rng.choice(looks)
    place = place or rng.choice(PLACES)
    what = rng.random()
    if what < 0.2:
        return Caption(rng.choice(PLACE_TEMPLATES).format(place), None, None, place)
    dotted = [look for look in looks if look[2]]
    if dotted and what < 0.35:
        colour, shape, dot = rng.choice(dotted)
        words = rng.choice((f"{shape} with a {dot} dot", f"{dot} dot on a {shape}"))
        return Caption(rng.choice(TEMPLATES).format(words), None, shape, None, dot)
    named: tuple[str | None, str | None]
    if held_out(colour, shape) or what < 0.5:
        if rng.random() < 0.5:
            words, named = f"{colour} thing", (colour, None)
        else:
            words, named = shape, (None, shape)
    else:
        words, named = f"{colour} {shape}", (colour, shape)
    if what > 0.75:
        return Caption("a " + rng.choice(JOINED).format(words, place), named[0], named[1], place)
    return Caption(rng.choice(TEMPLATES).format(words), named[0], named[1], None)
