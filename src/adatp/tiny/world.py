"""The embedded model's world: synthetic clips with questions, from a seed (ours, not the paper's).

A clip is a film of moving, textured, coloured shapes: scenes with a background of their own, joined by hard
cuts; *residents* that stay, still or moving, for a whole scene; small *flashes* that last one or two frames
anywhere; and distractors that share a colour or a shape with something else. Everything a question needs is
in the metadata (`Clip.things`), so an answer is computed, never looked at.

To add a question type, write a function `Clip -> list of Question` and name it in `QUESTION_TYPES`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import NDArray

SIZE = 96
"""Height and width of a frame in pixels."""

COLOURS: dict[str, tuple[int, int, int]] = {
    "red": (225, 40, 40),
    "green": (45, 170, 55),
    "blue": (50, 80, 235),
    "yellow": (240, 225, 50),
    "purple": (150, 50, 190),
    "orange": (245, 140, 30),
    "cyan": (60, 215, 225),
    "white": (245, 245, 245),
}
SHAPES = ("circle", "square", "triangle", "cross", "ring", "star", "bar", "moon")
DIRECTIONS = {"left": (0, -1), "right": (0, 1), "up": (-1, 0), "down": (1, 0)}
NUMBERS = ("one", "two", "three", "four")
THIRDS = ("beginning", "middle", "end")
CORNERS = ("northwest", "northeast", "southwest", "southeast")

SPLITS = ("train", "validation", "test")


@dataclass(frozen=True)
class Thing:
    """One coloured shape and its life in the clip.

    Attributes:
        colour: A key of `COLOURS`.
        shape: One of `SHAPES`.
        radius: Half its height, in pixels.
        start: First frame it is seen in.
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
        """One past the last frame it is seen in."""
        return self.start + len(self.path)


@dataclass(frozen=True)
class Clip:
    """A clip and the truth about it.

    Attributes:
        frames: uint8 (F, 96, 96, 3), RGB.
        things: What is in it, by first frame.
        cuts: First frame of each scene; the first is 0.
    """

    frames: NDArray[np.uint8]
    things: tuple[Thing, ...]
    cuts: tuple[int, ...]


Description = tuple[str | None, str | None]
"""(colour, shape); None stands for any."""


@dataclass(frozen=True)
class Question:
    """A question on a clip, its one-word answer, and where the evidence is.

    Attributes:
        kind: A key of `QUESTION_TYPES`.
        text: The question, lower case.
        answer: One word.
        about: Descriptions of the things it asks about: a frame that shows one of them is evidence.
    """

    kind: str
    text: str
    answer: str
    about: tuple[Description, ...]


def matches(thing: Thing, description: Description) -> bool:
    """Whether a thing fits a (colour, shape) description."""
    colour, shape = description
    return colour in (None, thing.colour) and shape in (None, thing.shape)


def evidence(clip: Clip, about: tuple[Description, ...]) -> NDArray[np.bool_]:
    """Which frames show a thing that fits one of the descriptions: bool (F,)."""
    seen = np.zeros(len(clip.frames), dtype=bool)
    for thing in clip.things:
        if any(matches(thing, description) for description in about):
            seen[thing.start : thing.stop] = True
    return seen


# --- drawing ------------------------------------------------------------------------------------------------


@cache
def _mask(shape: str, radius: int) -> NDArray[np.float32]:
    """Coverage of a shape in its box, (2 radius, 2 radius) in 0..1, anti-aliased by 4 x 4 samples a pixel."""
    n = 2 * radius
    axis = (np.arange(4 * n, dtype=np.float32) + 0.5) / (2 * n) - 1
    y, x = np.meshgrid(axis, axis, indexing="ij")
    r = np.hypot(x, y)
    if shape == "circle":
        inside = r < 0.95
    elif shape == "square":
        inside = np.maximum(abs(x), abs(y)) < 0.82
    elif shape == "triangle":
        inside = (y < 0.85) & (y > 2 * abs(x) - 0.95)
    elif shape == "cross":
        inside = (np.minimum(abs(x), abs(y)) < 0.28) & (np.maximum(abs(x), abs(y)) < 0.95)
    elif shape == "ring":
        inside = (r < 0.98) & (r > 0.55)
    elif shape == "star":
        inside = r < 0.66 + 0.32 * np.cos(5 * np.arctan2(x, -y))
    elif shape == "bar":
        inside = (abs(x) < 0.98) & (abs(y) < 0.32)
    else:  # moon
        inside = (r < 0.97) & (np.hypot(x - 0.5, y) > 0.75)
    coverage: NDArray[np.float32] = inside.reshape(n, 4, n, 4).mean((1, 3), dtype=np.float32)
    return coverage


@cache
def _blend() -> NDArray[np.float32]:
    """Linear interpolation from 7 knots to a frame's side, (SIZE, 7)."""
    at = np.linspace(0, 6, SIZE, dtype=np.float32)
    return np.maximum(0, 1 - abs(at[:, None] - np.arange(7, dtype=np.float32)))


@cache
def _noise() -> NDArray[np.float32]:
    """A pool of sensor noise to cut windows from: drawing fresh noise would cost more than all the rest."""
    return np.random.default_rng(0).normal(0, 2.5, (2 * SIZE, 2 * SIZE, 3)).astype(np.float32)


def _background(rng: np.random.Generator) -> NDArray[np.float32]:
    """A dim, smooth, faintly tinted background, (SIZE, SIZE, 3)."""
    level = rng.uniform(15, 90) + rng.uniform(-12, 12, 3) + rng.uniform(-14, 14, (7, 7, 1))
    knots = np.moveaxis(level.astype(np.float32), -1, 0)
    return np.moveaxis(_blend() @ knots @ _blend().T, 0, -1).clip(0, 110)


def _render(
    rng: np.random.Generator, n_frames: int, things: list[Thing], cuts: list[int]
) -> NDArray[np.uint8]:
    film = np.empty((n_frames, SIZE, SIZE, 3), dtype=np.float32)
    for first, end in zip(cuts, [*cuts[1:], n_frames], strict=True):
        film[first:end] = _background(rng)
    for thing in things:
        mask = _mask(thing.shape, thing.radius)[..., None]
        shade = np.array(COLOURS[thing.colour], dtype=np.float32) + rng.uniform(-12, 12, 3).astype(np.float32)
        grain = rng.uniform(0.88, 1.0, mask.shape).astype(np.float32)
        paint, see_through = mask * grain * shade, 1 - mask
        for t, (row, column) in enumerate(thing.path, thing.start):
            box = film[
                t,
                row - thing.radius : row + thing.radius,
                column - thing.radius : column + thing.radius,
            ]
            box *= see_through
            box += paint
    for t, (row, column) in enumerate(rng.integers(0, SIZE, (n_frames, 2))):
        film[t] += _noise()[row : row + SIZE, column : column + SIZE]
    return film.clip(0, 255).astype(np.uint8)


# --- clips --------------------------------------------------------------------------------------------------


def _path(
    rng: np.random.Generator, radius: int, length: int, direction: str | None
) -> tuple[tuple[int, int], ...]:
    low, high = radius, SIZE - radius
    if direction is None:
        row, column = (int(v) for v in rng.integers(low, high + 1, 2))
        return ((row, column),) * length
    steps = length - 1
    fastest = min(12, (high - low) // steps)
    speed = int(rng.integers(min(3, fastest), fastest + 1))
    travel = speed * steps
    down, right = DIRECTIONS[direction]
    spans = [(low + travel * (d < 0), high - travel * (d > 0)) for d in (down, right)]
    row, column = (int(rng.integers(a, b + 1)) for a, b in spans)
    return tuple((row + down * speed * t, column + right * speed * t) for t in range(length))


def _fits(others: list[Thing], thing: Thing) -> bool:
    """Whether a thing overlaps none that is seen at the same time."""
    for other in others:
        for t in range(max(thing.start, other.start), min(thing.stop, other.stop)):
            (r0, c0), (r1, c1) = thing.path[t - thing.start], other.path[t - other.start]
            if max(abs(r0 - r1), abs(c0 - c1)) < thing.radius + other.radius + 2:
                return False
    return True


def _looks(rng: np.random.Generator, n: int) -> list[tuple[str, str]]:
    """n different (colour, shape) pairs: about half new in both, half sharing one with an earlier pair."""
    colours, shapes = list(COLOURS), list(SHAPES)
    pairs: list[tuple[str, str]] = []
    shared = rng.choice(["colour", "shape"])  # one attribute a clip, so that counts reach four
    while len(pairs) < n:
        colour, shape = str(rng.choice(colours)), str(rng.choice(shapes))
        if pairs and rng.random() < 0.45:
            model = pairs[int(rng.integers(min(2, len(pairs))))]
            colour, shape = (model[0], shape) if shared == "colour" else (colour, model[1])
        elif n <= len(colours) and any(colour == c or shape == s for c, s in pairs) and rng.random() < 0.9:
            continue
        if (colour, shape) not in pairs:
            pairs.append((colour, shape))
    return pairs


def _cast(rng: np.random.Generator, lives: list[tuple[int, int, bool]]) -> list[Thing]:
    """Things for lives (start, length, flash), by first frame; those that find no room are left out."""
    things: list[Thing] = []
    for (start, length, flash), (colour, shape) in zip(lives, _looks(rng, len(lives)), strict=True):
        for _ in range(12):
            radius = int(rng.integers(6, 10) if flash else rng.integers(8, 15))
            moves = length > 1 and not flash and rng.random() < 0.6
            direction = str(rng.choice(list(DIRECTIONS))) if moves else None
            path = _path(rng, radius, length, direction)
            thing = Thing(colour, shape, radius, start, path, direction, flash)
            if _fits(things, thing):
                things.append(thing)
                break
    return sorted(things, key=lambda thing: thing.start)


def make_clip(seed: int, n_frames: int, split: str = "train") -> Clip:
    """Draw one clip.

    Args:
        seed: Any non-negative integer: the clip's number in its split.
        n_frames: F, at least 1.
        split: One of `SPLITS`; the same seed gives different clips in different splits.

    Returns:
        The clip, the same on every machine for the same arguments.

    Raises:
        ValueError: If the split is unknown or `n_frames` is below 1.
    """
    if split not in SPLITS:
        raise ValueError(f"unknown split {split!r}: choose from {', '.join(SPLITS)}")
    if n_frames < 1:
        raise ValueError(f"a clip needs at least one frame, not {n_frames}")
    rng = np.random.default_rng((SPLITS.index(split), n_frames, seed))

    n_scenes = int(rng.integers(1, 2 + n_frames // 5)) if n_frames > 1 else 1
    inner = rng.choice(np.arange(1, n_frames), n_scenes - 1, replace=False) if n_scenes > 1 else np.array([])
    cuts = [0, *sorted(int(t) for t in inner)]
    lives: list[tuple[int, int, bool]] = []
    for first, end in zip(cuts, [*cuts[1:], n_frames], strict=True):
        lives += [(first, end - first, False)] * int(rng.integers(1, 3))
    for _ in range(int(rng.integers(1, 3 + min(n_frames, 16) // 5))):
        length = int(rng.integers(1, min(2, n_frames) + 1))
        lives.append((int(rng.integers(0, n_frames - length + 1)), length, True))
    lives = [lives[i] for i in rng.permutation(len(lives))][:9]

    things = _cast(rng, lives)
    return Clip(_render(rng, n_frames, things, cuts), tuple(things), tuple(cuts))


def make_crowd(seed: int) -> Clip:
    """One frame of up to eight things: many names a frame to learn seeing from. Training split only."""
    rng = np.random.default_rng((len(SPLITS), seed))
    things = _cast(rng, [(0, 1, bool(rng.random() < 0.5)) for _ in range(int(rng.integers(5, 9)))])
    return Clip(_render(rng, 1, things, [0]), tuple(things), (0,))


# --- questions ----------------------------------------------------------------------------------------------


def _unique(clip: Clip) -> Iterator[tuple[Thing, Description, str]]:
    """Things that a shape alone or a colour alone names, with that description and its words."""
    colours = [thing.colour for thing in clip.things]
    shapes = [thing.shape for thing in clip.things]
    for thing in clip.things:
        if shapes.count(thing.shape) == 1:
            yield thing, (None, thing.shape), thing.shape
        if colours.count(thing.colour) == 1:
            yield thing, (thing.colour, None), f"{thing.colour} thing"


def _colour(clip: Clip) -> list[Question]:
    return [
        Question("colour", f"what colour is the {words} ?", thing.colour, (about,))
        for thing, about, words in _unique(clip)
        if about[1]
    ]


def _shape(clip: Clip) -> list[Question]:
    return [
        Question("shape", f"what shape is the {words} ?", thing.shape, (about,))
        for thing, about, words in _unique(clip)
        if about[0]
    ]


def _article(word: str) -> str:
    return "an" if word[0] in "aeiou" else "a"


def _exists(clip: Clip) -> list[Question]:
    """Yes: a pair that is there. No: a colour and a shape that are both there, but on different things."""
    there = {(thing.colour, thing.shape) for thing in clip.things}
    crossed = {(a.colour, b.shape) for a in clip.things for b in clip.things} - there
    return [
        Question("exists", f"is there {_article(colour)} {colour} {shape} ?", answer, ((colour, shape),))
        for answer, pairs in (("yes", there), ("no", crossed))
        for colour, shape in sorted(pairs)
    ]


def _where(clip: Clip) -> list[Question]:
    questions = []
    for thing, about, words in _unique(clip):
        (row, column), middle = thing.path[0], SIZE / 2
        if thing.direction is None and min(abs(row - middle), abs(column - middle)) > 5:
            answer = CORNERS[2 * (row > middle) + (column > middle)]
            questions.append(Question("where", f"where is the {words} ?", answer, (about,)))
    return questions


def _when(clip: Clip) -> list[Question]:
    questions = []
    n = len(clip.frames)
    for thing, about, words in _unique(clip):
        thirds = {3 * t // n for t in range(thing.start, thing.stop)}
        if n >= 3 and len(thirds) == 1:
            answer = THIRDS[thirds.pop()]
            questions.append(Question("when", f"when is the {words} seen ?", answer, (about,)))
    return questions


def _first(clip: Clip) -> list[Question]:
    """Which of two things is seen first, in both orders of naming: neither place gives the answer away."""
    questions = []
    named = [(thing, about) for thing, about, _ in _unique(clip) if about[1]]
    for a, one in named:
        for b, two in named:
            if a.start != b.start:
                text = f"which is seen first , the {a.shape} or the {b.shape} ?"
                answer = a.shape if a.start < b.start else b.shape
                questions.append(Question("first", text, answer, (one, two)))
    return questions


def _direction(clip: Clip) -> list[Question]:
    return [
        Question("direction", f"which way does the {words} move ?", thing.direction, (about,))
        for thing, about, words in _unique(clip)
        if thing.direction is not None
    ]


def _count(clip: Clip) -> list[Question]:
    """How many different things of one shape, or of one colour, the whole clip shows."""
    questions = []
    colours = [thing.colour for thing in clip.things]
    shapes = [thing.shape for thing in clip.things]
    for seen, about, words in [
        *((shapes.count(s), (None, s), f"{s} things") for s in sorted(set(shapes))),
        *((colours.count(c), (c, None), f"{c} things") for c in sorted(set(colours))),
    ]:
        if seen <= len(NUMBERS):
            answer = NUMBERS[seen - 1]
            questions.append(Question("count", f"how many {words} are there ?", answer, (about,)))
    return questions


QUESTION_TYPES: dict[str, Callable[[Clip], list[Question]]] = {
    "colour": _colour,
    "shape": _shape,
    "exists": _exists,
    "where": _where,
    "when": _when,
    "first": _first,
    "direction": _direction,
    "count": _count,
}
"""Question type -> every question of that type that a clip answers without doubt."""

ANSWERS: dict[str, tuple[str, ...]] = {
    "colour": tuple(COLOURS),
    "shape": SHAPES,
    "exists": ("yes", "no"),
    "where": CORNERS,
    "when": THIRDS,
    "first": SHAPES,
    "direction": tuple(DIRECTIONS),
    "count": NUMBERS,
}
"""Question type -> the answers it has; chance is one in their number (one in two for "first")."""


def ask(clip: Clip, seed: int, n: int) -> list[Question]:
    """Draw up to n different questions on a clip: a type first, then an answer, then a question that has it.

    Types and answers are drawn evenly among those that the clip allows, so that frequent ones do not drown
    the rest.
    """
    rng = np.random.default_rng(seed)
    pool: dict[str, dict[str, list[Question]]] = {}
    for kind, make in QUESTION_TYPES.items():
        for question in make(clip):
            pool.setdefault(kind, {}).setdefault(question.answer, []).append(question)
    drawn: list[Question] = []
    while pool and len(drawn) < n:
        kind = str(rng.choice(sorted(pool)))
        answer = str(rng.choice(sorted(pool[kind])))
        bucket = pool[kind][answer]
        drawn.append(bucket.pop(int(rng.integers(len(bucket)))))
        if not bucket:
            del pool[kind][answer]
            if not pool[kind]:
                del pool[kind]
    return drawn


def benchmark(split: str, n_frames: int, n: int) -> Iterator[tuple[int, Question]]:
    """Balanced questions of a split, one a clip: types take turns, and the answers of a type take turns.

    Args:
        split: One of `SPLITS`.
        n_frames: F of every clip.
        n: How many.

    Yields:
        (seed, question): the clip is `make_clip(seed, n_frames, split)`.

    Raises:
        ValueError: If the split is unknown, or clips so short cannot hold every question type.
    """
    if n_frames < 3:
        raise ValueError(f"clips of {n_frames} frames have no beginning, middle and end: ask for 3 or more")
    kinds, turns, seed = list(QUESTION_TYPES), dict.fromkeys(QUESTION_TYPES, 0), 0
    for i in range(n):
        kind = kinds[i % len(kinds)]
        wanted = ANSWERS[kind][turns[kind] % len(ANSWERS[kind])]
        turns[kind] += 1
        while True:
            clip = make_clip(seed, n_frames, split)
            seed += 1
            fitting = [question for question in QUESTION_TYPES[kind](clip) if question.answer == wanted]
            if fitting:
                yield seed - 1, fitting[seed % len(fitting)]
                break


def words() -> list[str]:
    """Every word of the world, questions and answers, in a fixed order: the model's vocabulary."""
    glue = (
        "what which where when who why how many much is are was does do did there a an the of in on at to and"
        " or not it this that color colour shape thing things object seen shown first last next before after"
        " then move moves moving stay still way scene clip video frame second most often appear appears"
        " big small large tiny fast slow top bottom middle corner center centre left right up down early late"
        " change same different other than any all none zero five six yes no word answer ? , . ! ' picture"
    )
    every = [*COLOURS, *SHAPES, *DIRECTIONS, *NUMBERS, *THIRDS, *CORNERS, *glue.split()]
    return list(dict.fromkeys(every))
