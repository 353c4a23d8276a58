"""Defines what happens in a clip of the second world: places, camera, light, things and what hides them.

A clip is sampled here as plain data, without pixels: every answer is computed from it. `render.py` draws it.

- *Scenes* show one place each, joined by hard cuts or soft changes. Some are cutaways of one to three frames.
- The *camera* rests, pans, zooms or shakes, so that background tokens differ from frame to frame.
- *Flashes* last one or two frames, *movers* a few, *residents* a complete scene. Residents may carry a small
  dot for a few frames, or turn into another colour or shape.
- *Clutter* moves through in muted colours, and *poles* hide the things that pass behind them. No question
  asks about them.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from random import Random

import numpy as np
from numpy.typing import NDArray

from .vocabulary import COLOURS, DIRECTIONS, PLACES, SHAPES, SIZE, SPLITS

Span = tuple[int, int]
"""Frames from the first number up to the second, which is excluded."""

Look = tuple[str, str]
"""Colour and shape of a thing: (colour, shape)."""


@dataclass(frozen=True)
class Scene:
    """One place, visible for a while.

    Attributes:
        place: One of `vocabulary.PLACES`; no clip shows a place twice.
        start: Its first frame.
        stop: One past its last frame.
        camera: "still", "pan", "zoom" or "shake".
        fade: Frames at its start in which the place before still shows through; 0 for a hard cut.
    """

    place: str
    start: int
    stop: int
    camera: str
    fade: int


@dataclass(frozen=True)
class Thing:
    """One coloured shape and its life in the clip.

    Attributes:
        look: Its colour and shape when it comes.
        role: "flash", "mover" or "resident".
        radius: Half its height, in pixels.
        start: First frame that shows it.
        path: Its centre (row, column), in pixels, in each of its frames.
        direction: A key of `DIRECTIONS` if it moves, else None.
        turn: First frame of its second look and that look; None if it keeps the first.
        dot: The colour of a small dot on it and the frames that show the dot; None if it has none.
    """

    look: Look
    role: str
    radius: int
    start: int
    path: tuple[tuple[int, int], ...]
    direction: str | None = None
    turn: tuple[int, Look] | None = None
    dot: tuple[str, Span] | None = None

    @property
    def stop(self) -> int:
        """One past the last frame that shows it."""
        return self.start + len(self.path)

    @property
    def looks(self) -> tuple[Look, ...]:
        """Every look it has in its lifetime."""
        return (self.look,) if self.turn is None else (self.look, self.turn[1])

    def look_at(self, t: int) -> Look:
        """Its look in frame t."""
        return self.look if self.turn is None or t < self.turn[0] else self.turn[1]


@dataclass(frozen=True)
class Pole:
    """A dark vertical bar in front of everything. `left` is its left edge in each frame from `start` on."""

    start: int
    left: tuple[int, ...]
    width: int


@dataclass(frozen=True)
class Clip:
    """A clip with its ground truth.

    Attributes:
        n_frames: F.
        scenes: By first frame; they cover the clip.
        things: By first frame.
        poles: They hide things.
        dark: The frames in which the light is out; None if it never is.
        key: Seed of what is drawn but not asked about: textures, camera paths, light, noise.
        shifted: Whether it is drawn outside the ranges of training.
    """

    n_frames: int
    scenes: tuple[Scene, ...]
    things: tuple[Thing, ...]
    poles: tuple[Pole, ...]
    dark: Span | None
    key: str = field(repr=False)
    shifted: bool = False

    @cached_property
    def frames(self) -> NDArray[np.uint8]:
        """uint8 (F, 96, 96, 3), RGB; drawn when first asked for."""
        from .render import render

        return render(self)

    def scene_at(self, t: int) -> Scene:
        """The scene that frame t belongs to."""
        return next(scene for scene in self.scenes if t < scene.stop)

    def visible(self, thing: Thing) -> tuple[int, ...]:
        """The frames in which poles hide at most a third of a thing."""
        return tuple(t for t in range(thing.start, thing.stop) if self._hidden(thing, t) <= 1 / 3)

    def _hidden(self, thing: Thing, t: int) -> float:
        left = thing.path[t - thing.start][1] - thing.radius
        right = left + 2 * thing.radius
        hidden = 0
        for pole in self.poles:
            if pole.start <= t < pole.start + len(pole.left):
                edge = pole.left[t - pole.start]
                hidden += max(0, min(right, edge + pole.width) - max(left, edge))
        return hidden / (right - left)


TRAVEL = 32
"""Least distance in pixels that a moving thing covers: two visual tokens."""

RADII = {"flash": (6, 9), "mover": (7, 10), "resident": (10, 13)}
"""Half the height in pixels, both ends included: a flash covers one to four visual tokens."""

SHIFTED_RADII = {"flash": (10, 11), "mover": (11, 12), "resident": (14, 15)}


def _scenes(rng: Random, n: int, most: int) -> list[Scene]:
    """Cut n frames into scenes of different places. Some of them are cutaways of one to three frames."""
    count = 1 if n < 2 else rng.randint(1, max(1, min(most, 2 + n // 5)))
    cuts = {0}
    while len(cuts) < count:
        cut = rng.randrange(1, n)
        cuts.add(cut)
        if rng.random() < 0.4 and len(cuts) < count:
            cuts.add(min(n - 1, cut + rng.randint(1, 3)))
    starts = sorted(cuts)
    places = rng.sample(PLACES, len(starts))
    scenes = []
    for start, stop, place in zip(starts, [*starts[1:], n], places, strict=True):
        fade = min(rng.randint(2, 3), stop - start - 1) if start and rng.random() < 0.3 else 0
        camera = rng.choices(("still", "pan", "zoom", "shake"), (0.2, 0.4, 0.2, 0.2))[0]
        scenes.append(Scene(place, start, stop, camera, fade))
    return scenes


def _path(
    rng: Random, radius: int, length: int, direction: str | None, fastest: int
) -> tuple[tuple[int, int], ...]:
    low, high = radius, SIZE - radius
    if direction is None:
        return ((rng.randint(low, high), rng.randint(low, high)),) * length
    steps = length - 1
    slowest = TRAVEL / steps
    speed = rng.uniform(slowest, max(slowest, min(fastest, (high - low) / steps)))
    travel = int(speed * steps)
    down, right = DIRECTIONS[direction]
    row, column = (rng.randint(low + travel * (d < 0), high - travel * (d > 0)) for d in (down, right))
    way = [int(speed * t) for t in range(length)]
    return tuple((row + down * gone, column + right * gone) for gone in way)


def _fits(others: list[Thing], thing: Thing) -> bool:
    """Whether a thing overlaps no other that is visible at the same time."""
    for other in others:
        for t in range(max(thing.start, other.start), min(thing.stop, other.stop)):
            (r0, c0), (r1, c1) = thing.path[t - thing.start], other.path[t - other.start]
            if max(abs(r0 - r1), abs(c0 - c1)) < thing.radius + other.radius + 2:
                return False
    return True


def _pairs(rng: Random, n: int, similar: int) -> list[Look]:
    """Draw n different looks.

    The first `similar` share a colour, or a shape, that no other has, so that they can be counted. Every
    second one of the rest repeats the colour or the shape of an earlier one: a distractor.
    """
    colours, shapes = rng.sample(list(COLOURS), len(COLOURS)), rng.sample(SHAPES, len(SHAPES))
    if rng.random() < 0.5:
        pairs = [(colours[0], shape) for shape in shapes[:similar]]
        colours = colours[bool(similar) :]
    else:
        pairs = [(colour, shapes[0]) for colour in colours[:similar]]
        shapes = shapes[bool(similar) :]
    rest: list[Look] = []
    while len(pairs) + len(rest) < n:
        pair = (rng.choice(colours), rng.choice(shapes))
        if rest and rng.random() < 0.5:
            model = rng.choice(rest)
            pair = (model[0], pair[1]) if rng.random() < 0.5 else (pair[0], model[1])
        if pair not in rest:
            rest.append(pair)
    return pairs + rest


def _thing(
    rng: Random, role: str, span: Span, look: Look, others: list[Thing], radii: Span, shifted: bool
) -> Thing | None:
    """A thing with a lifetime in a span, if there is room for it; else None."""
    low, high = radii
    length = span[1] - span[0]
    moves = role == "mover" and length > 2
    for _ in range(12):
        radius = rng.randint(low, high)
        direction = rng.choice(list(DIRECTIONS)) if moves else None
        path = _path(rng, radius, length, direction, 24 if shifted else 16)
        thing = Thing(look, role, radius, span[0], path, direction)
        if _fits(others, thing):
            return thing
    return None


def _events(rng: Random, thing: Thing, spare: list[Look]) -> Thing:
    """Let a resident or a mover change its look at its end, or wear a dot for a few frames; or neither."""
    length, what = thing.stop - thing.start, rng.random()
    if thing.role == "flash" or what > 0.85:
        return thing
    if what < 0.4 and spare and length > 2:
        at = thing.stop - rng.randint(1, min(3, length - 1))
        free = [pair for pair in spare if (pair[0] == thing.look[0]) != (pair[1] == thing.look[1])]
        if free:
            return Thing(**{**thing.__dict__, "turn": (at, rng.choice(free))})
    begin = rng.randrange(thing.start, thing.stop)
    dot = rng.choice([colour for colour in COLOURS if colour != thing.look[0]])
    span = (begin, min(thing.stop, begin + rng.randint(1, 2)))
    return Thing(**{**thing.__dict__, "dot": (dot, span)})


def _pole(rng: Random, n: int) -> Pole:
    length = rng.randint(min(2, n), min(8, n))
    start, width = rng.randint(0, n - length), rng.randint(8, 16)
    speed = rng.choice((0, 0, rng.randint(4, 14), -rng.randint(4, 14)))
    left = rng.randint(0, SIZE - width)
    return Pole(start, tuple(left + speed * t for t in range(length)), width)


def sample_clip(
    rng: Random, n: int, key: str, shifted: bool = False, density: float = 1.0, larger: int = 0
) -> Clip:
    """Sample what happens in a clip of n frames.

    Args:
        rng: Source of all random draws.
        n: F.
        key: Seed of the drawing.
        shifted: Whether to leave the ranges of the other splits.
        density: How many things there are, as a multiple of the usual number.
        larger: Pixels by which every radius exceeds the usual one.
    """
    scenes = _scenes(rng, n, 9)
    flashes = round(density * rng.randint(2, 4 + min(n, 32) // 4))
    lives: list[tuple[str, Span]] = []
    for _ in range(flashes):
        start = rng.randrange(n)
        lives.append(("flash", (start, min(n, start + rng.randint(1, 2)))))
    similar = min(flashes, rng.randint(0, 3))
    others: list[tuple[str, Span]] = []
    for _ in range(round(density * rng.randint(1, 3))) if n > 3 else ():
        length = rng.randint(min(4, n), min(8, n))
        start = rng.randint(0, n - length)
        others.append(("mover", (start, start + length)))
    for scene in scenes:
        stay = min(scene.stop - scene.start, rng.randint(4, 24))
        start = rng.randint(scene.start, scene.stop - stay)
        others += [("resident", (start, start + stay))] * rng.randint(0, 2)
    rng.shuffle(others)
    lives = (lives + others[: max(2, 20 - flashes)])[:40]
    pairs = _pairs(rng, len(lives) + 6, similar)
    spare, things = pairs[len(lives) :], list[Thing]()
    radii = SHIFTED_RADII if shifted else RADII
    for i, ((role, span), look) in enumerate(zip(lives, pairs, strict=False)):
        low, high = radii[role]
        thing = _thing(rng, role, span, look, things, (low + larger, high + larger), shifted)
        if thing is not None:
            changed = _events(rng, thing, spare) if i >= similar else thing
            if changed.turn is not None:
                spare.remove(changed.turn[1])
            things.append(changed)
    poles = tuple(_pole(rng, n) for _ in range(rng.choice((0, 0, 1, 2))))
    dark = None
    if n >= 8 and rng.random() < 0.3:
        start = rng.randrange(n - 1)
        dark = (start, min(n, start + rng.randint(1, max(1, n // 10))))
    things.sort(key=lambda thing: thing.start)
    return Clip(n, tuple(scenes), tuple(things), poles, dark, key, shifted)


def make_clip(seed: int, n_frames: int, split: str = "train") -> Clip:
    """Draw one clip.

    Args:
        seed: Any non-negative integer: the clip's number in its split.
        n_frames: F, at least 1.
        split: One of `SPLITS`; the same seed gives different clips in different splits.

    Returns:
        The clip, the same for the same arguments.

    Raises:
        ValueError: If the split is unknown or `n_frames` is below 1.
    """
    if split not in SPLITS:
        raise ValueError(f"unknown split {split!r}: choose from {', '.join(SPLITS)}")
    if n_frames < 1:
        raise ValueError(f"a clip needs at least one frame, not {n_frames}")
    key = f"{split} {n_frames} {seed}"
    return sample_clip(Random(key), n_frames, key, split == "shifted")
