"""The embedded model's world: synthetic clips with questions, from a seed (ours, not the paper's).

A clip is a film of moving, textured, coloured shapes: scenes with a background of their own, joined by hard
cuts or soft changes; *residents* that stay, still or moving, for a whole scene; *movers* that cross the frame
in a few frames; small *flashes* that last one or two frames anywhere; and distractors that share a colour or
a shape with something else. Most questions hinge on a few tokens of a few frames, so that what a pruning
method throws away matters. Everything a question needs is in the metadata (`Clip.things`), so an answer is
computed, never looked at.

To add a question type, write a function `Clip -> list of Question` and name it in `QUESTION_TYPES`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache, cached_property

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
NUMBERS = ("one", "two", "three")
THIRDS = ("beginning", "middle", "end")
HALVES = ("early", "late")
ORDERS = ("before", "after")
CORNERS = ("northwest", "northeast", "southwest", "southeast")

SPLITS = ("train", "validation", "test", "shifted")
"""`shifted` has sizes, speeds, backgrounds, noise and shades of colour outside the others' ranges."""


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
        n_frames: F.
        things: What is in it, by first frame.
        cuts: First frame of each scene; the first is 0.
        key: Seed of what is drawn: backgrounds, textures, noise.
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
        return _render(self)


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
    seen = np.zeros(clip.n_frames, dtype=bool)
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


def _background(rng: np.random.Generator, shifted: bool) -> NDArray[np.float32]:
    """A dim, smooth, faintly tinted background, (SIZE, SIZE, 3)."""
    low, high = (90, 120) if shifted else (15, 90)
    level = rng.uniform(low, high) + rng.uniform(-12, 12, 3) + rng.uniform(-14, 14, (7, 7, 1))
    knots = np.moveaxis(level.astype(np.float32), -1, 0)
    return np.moveaxis(_blend() @ knots @ _blend().T, 0, -1).clip(0, high + 20)


def _shade(rng: np.random.Generator, colour: str, shifted: bool) -> NDArray[np.float32]:
    """A colour as it is painted once: up to 12 from its name's, or 16 to 24 where shifted."""
    away = rng.uniform(-12, 12, 3)
    if shifted:
        away = rng.choice([-1, 1], 3) * rng.uniform(16, 24, 3)
    return (np.array(COLOURS[colour]) + away).astype(np.float32)


def _render(clip: Clip) -> NDArray[np.uint8]:
    rng = np.random.default_rng((*clip.key, 1))
    film = np.empty((clip.n_frames, SIZE, SIZE, 3), dtype=np.float32)
    before = None
    for first, end in zip(clip.cuts, [*clip.cuts[1:], clip.n_frames], strict=True):
        scene = _background(rng, clip.shifted)
        film[first:end] = scene
        if before is not None and rng.random() < 0.4:  # a soft change: the old background fades out
            for t, share in zip(range(first, end), (0.75, 0.5, 0.25), strict=False):
                film[t] = share * before + (1 - share) * scene
        before = scene
    if rng.random() < 0.3:  # the light changes slowly
        first_light, last_light = rng.uniform(0.7, 1.2, 2)
        light = np.linspace(first_light, last_light, clip.n_frames, dtype=np.float32)
        film *= light[:, None, None, None]
    for thing in clip.things:
        mask = _mask(thing.shape, thing.radius)[..., None]
        grain = rng.uniform(0.88, 1.0, mask.shape).astype(np.float32)
        paint, see_through = mask * grain * _shade(rng, thing.colour, clip.shifted), 1 - mask
        for t, (row, column) in enumerate(thing.path, thing.start):
            box = film[
                t,
                row - thing.radius : row + thing.radius,
                column - thing.radius : column + thing.radius,
            ]
            box *= see_through
            box += paint
    strength = np.float32(rng.uniform(1.7, 2.2) if clip.shifted else rng.uniform(0.4, 1.5))
    for t, (row, column) in enumerate(rng.integers(0, SIZE, (clip.n_frames, 2))):
        film[t] += strength * _noise()[row : row + SIZE, column : column + SIZE]
    return film.clip(0, 255).astype(np.uint8)


# --- clips --------------------------------------------------------------------------------------------------

TRAVEL = 32
"""Pixels that a moving thing covers at least: two visual tokens."""


def _path(
    rng: np.random.Generator, radius: int, length: int, direction: str | None, fastest: int
) -> tuple[tuple[int, int], ...]:
    low, high = radius, SIZE - radius
    if direction is None:
        row, column = (int(v) for v in rng.integers(low, high + 1, 2))
        return ((row, column),) * length
    steps = length - 1
    speed = float(rng.uniform(TRAVEL / steps, min(fastest, (high - low) / steps)))
    travel = int(speed * steps)
    down, right = DIRECTIONS[direction]
    spans = [(low + travel * (d < 0), high - travel * (d > 0)) for d in (down, right)]
    row, column = (int(rng.integers(a, b + 1)) for a, b in spans)
    way = [int(speed * t) for t in range(length)]
    return tuple((row + down * gone, column + right * gone) for gone in way)


def _fits(others: list[Thing], thing: Thing) -> bool:
    """Whether a thing overlaps none that is seen at the same time."""
    for other in others:
        for t in range(max(thing.start, other.start), min(thing.stop, other.stop)):
            (r0, c0), (r1, c1) = thing.path[t - thing.start], other.path[t - other.start]
            if max(abs(r0 - r1), abs(c0 - c1)) < thing.radius + other.radius + 2:
                return False
    return True


def _looks(rng: np.random.Generator, n: int, alike: int) -> list[tuple[str, str]]:
    """n different (colour, shape) pairs.

    The first `alike` share a colour, or a shape, that no other has, so that they can be counted. Of the rest
    some share one with an earlier one of the rest: distractors.
    """
    colours, shapes = (
        [str(c) for c in rng.permutation(list(COLOURS))],
        [str(s) for s in rng.permutation(SHAPES)],
    )
    by_colour = bool(rng.random() < 0.5)
    if by_colour:
        pairs = [(colours[0], shape) for shape in shapes[:alike]]
    else:
        pairs = [(colour, shapes[0]) for colour in colours[:alike]]
    own = set(pairs)
    reserved = (colours[0], None) if by_colour else (None, shapes[0])
    while len(pairs) < n:
        rest = [pair for pair in pairs if pair not in own]
        colour, shape = str(rng.choice(colours)), str(rng.choice(shapes))
        if rest and rng.random() < 0.4:
            model = rest[int(rng.integers(len(rest)))]
            colour, shape = (model[0], shape) if rng.random() < 0.5 else (colour, model[1])
        elif len(rest) < 5 and any(colour == c or shape == s for c, s in rest) and rng.random() < 0.9:
            continue
        if (colour, shape) not in pairs and (not alike or (colour != reserved[0] and shape != reserved[1])):
            pairs.append((colour, shape))
    return pairs


Life = tuple[int, int, str]
"""(start, length, "resident" | "mover" | "flash")"""

RADII = {"resident": (9, 14), "mover": (8, 12), "flash": (7, 10)}
"""Half the height in pixels, both ends included: a flash covers one to four tokens, grazing some more."""

SHIFTED_RADII = {"resident": (15, 17), "mover": (13, 14), "flash": (11, 12)}


def _cast(
    rng: np.random.Generator, lives: list[Life], alike: int = 0, shifted: bool = False
) -> tuple[Thing, ...]:
    """Things for lives, by first frame, less those that find no room; the first `alike` look alike."""
    things: list[Thing] = []
    for (start, length, role), (colour, shape) in zip(lives, _looks(rng, len(lives), alike), strict=True):
        low, high = (SHIFTED_RADII if shifted else RADII)[role]
        moves = length > 2 and role != "flash" and (role == "mover" or rng.random() < 0.4)
        for _ in range(12):
            radius = int(rng.integers(low, high + 1))
            direction = str(rng.choice(list(DIRECTIONS))) if moves else None
            path = _path(rng, radius, length, direction, 24 if shifted else 16)
            thing = Thing(colour, shape, radius, start, path, direction, role == "flash")
            if _fits(things, thing):
                things.append(thing)
                break
    return tuple(sorted(things, key=lambda thing: thing.start))


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
    key = (SPLITS.index(split), n_frames, seed)
    rng = np.random.default_rng(key)

    n_scenes = int(rng.integers(1, 2 + min(n_frames, 24) // 5)) if n_frames > 1 else 1
    inner = rng.choice(np.arange(1, n_frames), n_scenes - 1, replace=False) if n_scenes > 1 else np.array([])
    cuts = [0, *sorted(int(t) for t in inner)]

    def somewhere(low: int, high: int, role: str) -> Life:
        length = int(rng.integers(min(low, n_frames), min(high, n_frames) + 1))
        return int(rng.integers(0, n_frames - length + 1)), length, role

    flashes = int(rng.integers(1, 4 + min(n_frames, 24) // 8))
    lives = [somewhere(1, 2, "flash") for _ in range(flashes)]
    others = [somewhere(3, 8, "mover") for _ in range(int(rng.integers(0, 3))) if n_frames > 2]
    for first, end in zip(cuts, [*cuts[1:], n_frames], strict=True):
        others += [(first, end - first, "resident")] * int(rng.integers(0, 3))
    lives += [others[i] for i in rng.permutation(len(others))][: 9 - flashes]
    alike = min(flashes, int(rng.integers(0, len(NUMBERS) + 1)))
    shifted = split == "shifted"
    return Clip(n_frames, _cast(rng, lives, alike, shifted), tuple(cuts), key, shifted)


def make_crowd(seed: int) -> Clip:
    """One frame of up to eight things: many names a frame to learn seeing from. Training split only."""
    key = (len(SPLITS), seed)
    rng = np.random.default_rng(key)
    roles = [
        ("flash", "mover", "resident")[i] for i in rng.choice(3, int(rng.integers(5, 10)), p=(0.6, 0.2, 0.2))
    ]
    return Clip(1, _cast(rng, [(0, 1, role) for role in roles]), (0,), key)


# --- questions ----------------------------------------------------------------------------------------------


def _article(word: str) -> str:
    return "an" if word[0] in "aeiou" else "a"


def _named(clip: Clip) -> Iterator[tuple[Thing, Description, str]]:
    """Every thing under each name that is its alone: its shape, its colour, and the two together."""
    colours = [thing.colour for thing in clip.things]
    shapes = [thing.shape for thing in clip.things]
    for thing in clip.things:
        if shapes.count(thing.shape) == 1:
            yield thing, (None, thing.shape), thing.shape
        if colours.count(thing.colour) == 1:
            yield thing, (thing.colour, None), f"{thing.colour} thing"
        if shapes.count(thing.shape) > 1 or colours.count(thing.colour) > 1:
            yield thing, (thing.colour, thing.shape), f"{thing.colour} {thing.shape}"


def _apart(clip: Clip) -> Iterator[tuple[Thing, Thing, Description, Description, str, str]]:
    """Pairs of things of which the first is gone before the second comes, with what they are called."""
    named = list(_named(clip))
    for a, about_a, name_a in named:
        for b, about_b, name_b in named:
            if a.stop < b.start:
                yield a, b, about_a, about_b, name_a, name_b


def _colour(clip: Clip) -> list[Question]:
    return [
        Question("colour", f"what colour is the {name} ?", thing.colour, (about,))
        for thing, about, name in _named(clip)
        if about[0] is None
    ]


def _shape(clip: Clip) -> list[Question]:
    return [
        Question("shape", f"what shape is the {name} ?", thing.shape, (about,))
        for thing, about, name in _named(clip)
        if about[1] is None
    ]


def _exists(clip: Clip) -> list[Question]:
    """Yes: a pair that is there. No: one that is not, though its shape is; mostly its colour is
    there as well, on another thing."""
    there = {(thing.colour, thing.shape) for thing in clip.things}
    crossed = {(a.colour, b.shape) for a in clip.things for b in clip.things} - there
    absent = [colour for colour in COLOURS if all(colour != thing.colour for thing in clip.things)]
    crossed |= {(absent[i % len(absent)], thing.shape) for i, thing in enumerate(clip.things) if absent}
    return [
        Question("exists", f"is there {_article(colour)} {colour} {shape} ?", answer, ((colour, shape),))
        for answer, pairs in (("yes", there), ("no", crossed))
        for colour, shape in sorted(pairs)
    ]


def _where(clip: Clip) -> list[Question]:
    questions = []
    for thing, about, name in _named(clip):
        (row, column), middle = thing.path[0], SIZE / 2
        if thing.direction is None and min(abs(row - middle), abs(column - middle)) > 6:
            answer = CORNERS[2 * (row > middle) + (column > middle)]
            questions.append(Question("where", f"where is the {name} ?", answer, (about,)))
    return questions


def _when(clip: Clip) -> list[Question]:
    """Early or late: in one half of the clip, and not within a sixteenth of its middle."""
    questions = []
    n = clip.n_frames
    for thing, about, name in _named(clip):
        early, late = 16 * thing.stop <= 7 * n, 16 * thing.start >= 9 * n
        if early or late:
            answer = HALVES[late]
            questions.append(Question("when", f"is the {name} early or late ?", answer, (about,)))
    return questions


def _first_last(clip: Clip) -> list[Question]:
    """Which of two things is seen first, or last, named in either order: no place gives the answer away."""
    return [
        Question("first/last", f"which is seen {end} , the {one.shape} or the {two.shape} ?", answer, about)
        for a, b, about_a, about_b, name_a, name_b in _apart(clip)
        if name_a == a.shape and name_b == b.shape
        for end, answer in (("first", a.shape), ("last", b.shape))
        for one, two, about in ((a, b, (about_a, about_b)), (b, a, (about_b, about_a)))
    ]


def _before_after(clip: Clip) -> list[Question]:
    return [
        Question("before/after", f"is the {one} before or after the {two} ?", answer, about)
        for _, _, about_a, about_b, name_a, name_b in _apart(clip)
        for one, two, answer, about in (
            (name_a, name_b, "before", (about_a, about_b)),
            (name_b, name_a, "after", (about_b, about_a)),
        )
    ]


def _direction(clip: Clip) -> list[Question]:
    return [
        Question("direction", f"which way does the {name} move ?", thing.direction, (about,))
        for thing, about, name in _named(clip)
        if thing.direction is not None
    ]


def _count(clip: Clip) -> list[Question]:
    """How many different things of one shape, or of one colour, there are, where all of them are flashes.

    At most one question has the answer one: most colours and shapes are there once, and would drown the rest.
    """
    questions: list[Question] = []
    for what, named in (
        *(((thing.colour, None), f"{thing.colour} things") for thing in clip.things[::2]),
        *(((None, thing.shape), f"{thing.shape} things") for thing in clip.things),
        *(((thing.colour, None), f"{thing.colour} things") for thing in clip.things[1::2]),
    ):
        if any(question.about == (what,) for question in questions):
            continue
        things = [thing for thing in clip.things if matches(thing, what)]
        alone = len(things) == 1 and any(question.answer == NUMBERS[0] for question in questions)
        if 0 < len(things) <= len(NUMBERS) and all(thing.flash for thing in things) and not alone:
            answer = NUMBERS[len(things) - 1]
            questions.append(Question("count", f"how many {named} are there ?", answer, (what,)))
    return questions


QUESTION_TYPES: dict[str, Callable[[Clip], list[Question]]] = {
    "colour": _colour,
    "shape": _shape,
    "exists": _exists,
    "where": _where,
    "when": _when,
    "first/last": _first_last,
    "before/after": _before_after,
    "direction": _direction,
    "count": _count,
}
"""Question type -> every question of that type that a clip answers without doubt."""

ANSWERS: dict[str, tuple[str, ...]] = {
    "colour": tuple(COLOURS),
    "shape": SHAPES,
    "exists": ("yes", "no"),
    "where": CORNERS,
    "when": HALVES,
    "first/last": SHAPES,
    "before/after": ORDERS,
    "direction": tuple(DIRECTIONS),
    "count": NUMBERS,
}
"""Question type -> the answers it has; chance is one in their number (one in two for "first/last")."""


def ask(clip: Clip, seed: int, n: int, weights: Mapping[str, float] | None = None) -> list[Question]:
    """Draw up to n different questions on a clip: a type first, then an answer, then a question that has it.

    Types and answers are drawn evenly among those that the clip allows, so that frequent ones do not drown
    the rest; with `weights`, a type that has one is drawn so many times as often.
    """
    rng = np.random.default_rng(seed)
    pool: dict[str, dict[str, list[Question]]] = {}
    for kind, make in QUESTION_TYPES.items():
        for question in make(clip):
            pool.setdefault(kind, {}).setdefault(question.answer, []).append(question)
    drawn: list[Question] = []
    while pool and len(drawn) < n:
        kinds = sorted(pool)
        share = np.array([(weights or {}).get(kind, 1.0) for kind in kinds])
        kind = str(rng.choice(kinds, p=share / share.sum()))
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
    if n_frames < 4:
        raise ValueError(
            f"clips of {n_frames} frames are too short to tell early from late: ask for 4 or more"
        )
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
    every = [
        *COLOURS,
        *SHAPES,
        *DIRECTIONS,
        *NUMBERS,
        "four",
        "beginning",
        "middle",
        "end",
        *CORNERS,
        *glue.split(),
    ]
    return list(dict.fromkeys(every))
