"""Makes clips from seeds: which things they have, how long these stay, how they move."""

from __future__ import annotations

import numpy as np

from .clip import Clip, Thing
from .drawing import SIZE
from .vocabulary import COLOURS, DIRECTIONS, NUMBERS, SHAPES

SPLITS = ("train", "validation", "test", "shifted")
"""`shifted` has sizes, speeds, backgrounds, noise and shades of colour outside the others' ranges."""

TRAVEL = 32
"""Least distance in pixels that a moving thing covers: two visual tokens."""


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
    """Whether a thing overlaps no other that is visible at the same time."""
    for other in others:
        for t in range(max(thing.start, other.start), min(thing.stop, other.stop)):
            (r0, c0), (r1, c1) = thing.path[t - thing.start], other.path[t - other.start]
            if max(abs(r0 - r1), abs(c0 - c1)) < thing.radius + other.radius + 2:
                return False
    return True


def _looks(rng: np.random.Generator, n: int, group: int) -> list[tuple[str, str]]:
    """Draw n different (colour, shape) pairs.

    The first `group` share a colour, or a shape, that no other has, so that they can be counted. Some of the
    rest share one with an earlier one of the rest: distractors.
    """
    colours, shapes = (
        [str(c) for c in rng.permutation(list(COLOURS))],
        [str(s) for s in rng.permutation(SHAPES)],
    )
    by_colour = bool(rng.random() < 0.5)
    if by_colour:
        pairs = [(colours[0], shape) for shape in shapes[:group]]
    else:
        pairs = [(colour, shapes[0]) for colour in colours[:group]]
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
        if (colour, shape) not in pairs and (not group or (colour != reserved[0] and shape != reserved[1])):
            pairs.append((colour, shape))
    return pairs


Life = tuple[int, int, str]
"""(start, length, "resident" | "mover" | "flash")"""

RADII = {"resident": (9, 14), "mover": (8, 12), "flash": (7, 10)}
"""Half the height in pixels, both ends included. A flash covers one to four tokens, and touches some more."""

SHIFTED_RADII = {"resident": (15, 17), "mover": (13, 14), "flash": (11, 12)}


def _cast(
    rng: np.random.Generator, lives: list[Life], group: int = 0, shifted: bool = False
) -> tuple[Thing, ...]:
    """Make things for lives, by first frame, without those that find no room.

    The first `group` share a colour or a shape.
    """
    things: list[Thing] = []
    for (start, length, role), (colour, shape) in zip(lives, _looks(rng, len(lives), group), strict=True):
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
    group = min(flashes, int(rng.integers(0, len(NUMBERS) + 1)))
    shifted = split == "shifted"
    return Clip(n_frames, _cast(rng, lives, group, shifted), tuple(cuts), key, shifted)


def make_crowd(seed: int) -> Clip:
    """One frame of up to eight things: many names per frame, to learn object names from. Training split
    only.
    """
    key = (len(SPLITS), seed)
    rng = np.random.default_rng(key)
    roles = [
        ("flash", "mover", "resident")[i] for i in rng.choice(3, int(rng.integers(5, 10)), p=(0.6, 0.2, 0.2))
    ]
    return Clip(1, _cast(rng, [(0, 1, role) for role in roles]), (0,), key)
