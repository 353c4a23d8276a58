"""Draws a clip of the second world: camera, light, things, noise and compression, on arrays of all frames."""

from __future__ import annotations

import math
from functools import cache
from random import Random

import numpy as np
from numpy.typing import NDArray

from .clips import Clip, Scene, Thing
from .places import HEIGHT, WIDTH, draw_place
from .vocabulary import COLOURS, SIZE

Film = NDArray[np.float32]

DOT_RADIUS = 4
"""Half the side of a dot in pixels: it fits into one visual token."""


@cache
def shape_mask(shape: str, radius: int) -> Film:
    """Coverage of a shape in its box, (2 radius, 2 radius) in 0..1, anti-aliased by 4 x 4 samples per
    pixel.
    """
    n = 2 * radius
    axis = (np.arange(4 * n, dtype=np.float32) + 0.5) / (2 * n) - 1
    y, x = np.meshgrid(axis, axis, indexing="ij")
    r = np.hypot(x, y)
    inside = {
        "circle": r < 0.95,
        "square": np.maximum(abs(x), abs(y)) < 0.82,
        "triangle": (y < 0.85) & (y > 2 * abs(x) - 0.95),
        "cross": (np.minimum(abs(x), abs(y)) < 0.28) & (np.maximum(abs(x), abs(y)) < 0.95),
        "ring": (r < 0.98) & (r > 0.55),
        "star": r < 0.66 + 0.32 * np.cos(5 * np.arctan2(x, -y)),
        "bar": (abs(x) < 0.98) & (abs(y) < 0.32),
        "moon": (r < 0.97) & (np.hypot(x - 0.5, y) > 0.75),
    }[shape]
    coverage: Film = inside.reshape(n, 4, n, 4).mean((1, 3), dtype=np.float32)
    return coverage


@cache
def _rimmed(shape: str, radius: int) -> tuple[Film, Film]:
    """How much of the background shows through a thing and its soft dark rim, and the thing's own coverage.

    Both are (2 radius + 4, 2 radius + 4, 1). The rim separates a thing from a background of its colour.
    """
    cover = np.pad(shape_mask(shape, radius), 2)
    wide = cover.copy()
    for down in (-1, 0, 1):
        for across in (-1, 0, 1):
            np.maximum(wide, np.roll(cover, (down, across), (0, 1)), out=wide)
    through = (1 - cover) * (1 - 0.65 * (wide - cover).clip(0, 1))
    return through[..., None].astype(np.float32), cover[..., None]


@cache
def _sensor_noise() -> Film:
    """A pool of sensor noise to cut windows from: drawing new noise would cost more than everything else."""
    return np.random.default_rng(0).normal(0, 1, (2 * SIZE, 2 * SIZE, 3)).astype(np.float32)


@cache
def _cosines() -> tuple[Film, Film]:
    """The 8 x 8 cosine transform on flattened blocks, (64, 64), and the steps of about quality 50, (64,)."""
    k, x = np.mgrid[0:8, 0:8]
    basis = np.cos((2 * x + 1) * k * math.pi / 16) * np.where(k == 0, math.sqrt(1 / 8), 0.5)
    steps = 10 + 5.5 * (k + x) + 1.2 * k * x
    return np.kron(basis, basis).astype(np.float32), steps.reshape(-1).astype(np.float32)


def compress(film: Film, strength: float) -> Film:
    """Quantise 8 x 8 blocks as JPEG does.

    Args:
        film: float32 (F, 96, 96, 3) in 0..255.
        strength: A multiple of the steps of about quality 50.

    Returns:
        The film with its artefacts, of the same shape.
    """
    transform, steps = _cosines()
    steps = steps * np.float32(strength)
    side, out = SIZE // 8, np.empty_like(film)
    for frame, restored in zip(film, out, strict=True):  # a frame at a time stays in the processor's cache
        blocks = frame.reshape(side, 8, side, 8, 3).transpose(0, 2, 4, 1, 3).reshape(-1, 64)
        coefficients = (blocks - 128) @ transform.T
        coefficients /= steps
        np.rint(coefficients, out=coefficients)
        coefficients *= steps
        blocks = coefficients @ transform
        blocks += 128
        restored[:] = blocks.reshape(side, side, 3, 8, 8).transpose(0, 3, 1, 4, 2).reshape(frame.shape)
    return out


def _windows(rng: Random, scene: Scene) -> list[tuple[float, float, float]]:
    """The camera's window (top, left, side), in pixels of the place's image, in each frame of a scene."""
    n = scene.stop - scene.start
    side = rng.uniform(SIZE - 8, SIZE + 14)
    sides = [side] * n
    if scene.camera == "zoom":
        end = rng.uniform(62, 80) if rng.random() < 0.5 else rng.uniform(112, 126)
        reach = max(12, n)
        sides = [side + (end - side) * t / reach for t in range(n)]
    widest = max(sides)
    top, left = rng.uniform(0, HEIGHT - widest), rng.uniform(0, WIDTH - widest)
    down, across = 0.0, 0.0
    if scene.camera == "pan":
        across, down = rng.choice((-1, 1)) * rng.uniform(1.5, 6), rng.uniform(-1, 1)
    tops, lefts = [], []
    for t in range(n):
        shake_down, shake_across = (
            (rng.uniform(-4, 4), rng.uniform(-4, 4)) if scene.camera == "shake" else (0.0, 0.0)
        )
        tops.append(_bounce(top + down * t + shake_down, HEIGHT - widest))
        lefts.append(_bounce(left + across * t + shake_across, WIDTH - widest))
    # A zoom keeps its centre.
    return [
        (a + (widest - s) / 2, b + (widest - s) / 2, s) for a, b, s in zip(tops, lefts, sides, strict=True)
    ]


def _bounce(at: float, room: float) -> float:
    """Reflect a position at both ends of 0..room."""
    if room <= 0:
        return 0.0
    at %= 2 * room
    return min(at, 2 * room - at)


_PIXELS = np.arange(SIZE, dtype=np.float32) + 0.5


def _look_through(place: Film, window: tuple[float, float, float]) -> Film:
    """A window of a place's image as a frame (96, 96, 3), by nearest pixels."""
    top, left, side = window
    rows = (top + _PIXELS * (side / SIZE)).astype(np.intp).clip(0, HEIGHT - 1)
    columns = (left + _PIXELS * (side / SIZE)).astype(np.intp).clip(0, WIDTH - 1)
    frame: Film = place.reshape(-1, 3).take(rows[:, None] * WIDTH + columns, axis=0)
    return frame


def _backgrounds(clip: Clip, rng: Random) -> Film:
    film = np.empty((clip.n_frames, SIZE, SIZE, 3), dtype=np.float32)
    before: Film | None = None
    for scene in clip.scenes:
        place = draw_place(scene.place, rng, clip.shifted)
        for t, window in zip(range(scene.start, scene.stop), _windows(rng, scene), strict=True):
            film[t] = _look_through(place, window)
            gone = t - scene.start
            if gone < scene.fade and before is not None:
                share = np.float32((gone + 1) / (scene.fade + 1))
                film[t] = share * film[t] + (1 - share) * before
        before = film[scene.stop - 1].copy()
    return film


def paint(frame: Film, look: tuple[str, str], radius: int, centre: tuple[int, int], shade: Film) -> None:
    """Draw a shape with its rim into a frame (96, 96, 3), in place. Parts outside the frame are cut off.

    Args:
        frame: float32 (96, 96, 3).
        look: Colour (for the caller) and shape.
        radius: Half its height, in pixels.
        centre: Its (row, column).
        shade: float32 (3,), the colour it is painted in.
    """
    through, cover = _rimmed(look[1], radius)
    top, left = centre[0] - radius - 2, centre[1] - radius - 2
    high = through.shape[0]
    rows = slice(max(0, -top), high - max(0, top + high - SIZE))
    columns = slice(max(0, -left), high - max(0, left + high - SIZE))
    box = frame[top + rows.start : top + rows.stop, left + columns.start : left + columns.stop]
    box *= through[rows, columns]
    box += cover[rows, columns] * shade


def _shade(rng: Random, colour: str, shifted: bool) -> Film:
    """A colour as painted once: at most 14 from its named value, or 16 to 26 where shifted."""
    away = [rng.choice((-1, 1)) * (rng.uniform(16, 26) if shifted else rng.uniform(0, 14)) for _ in range(3)]
    return np.array([c + a for c, a in zip(COLOURS[colour], away, strict=True)], dtype=np.float32)


def _draw_thing(film: Film, thing: Thing, rng: Random, shifted: bool) -> None:
    shades = {look: _shade(rng, look[0], shifted) for look in thing.looks}
    for t, centre in enumerate(thing.path, thing.start):
        look = thing.look_at(t)
        paint(film[t], look, thing.radius, centre, shades[look])
        if thing.dot is not None and thing.dot[1][0] <= t < thing.dot[1][1]:
            colour = np.array(COLOURS[thing.dot[0]], dtype=np.float32)
            paint(film[t], (thing.dot[0], "circle"), DOT_RADIUS, centre, colour)


def _clutter(film: Film, rng: Random) -> None:
    """Muted blobs that drift through for a few frames: new in every frame, and never asked about."""
    n = len(film)
    for _ in range(rng.randint(0, 2 + n // 3)):
        start, length = rng.randrange(n), rng.randint(1, 4)
        grey = rng.uniform(20, 190)
        shade = np.array([grey + rng.uniform(-16, 16) for _ in range(3)], dtype=np.float32)
        high, wide = rng.randint(2, 6), rng.randint(3, 10)
        row, column = rng.randrange(SIZE - high), rng.randrange(SIZE - wide)
        down, across = rng.randint(-6, 6), rng.randint(-8, 8)
        for t in range(start, min(n, start + length)):
            top, left = row + down * (t - start), column + across * (t - start)
            film[t, max(0, top) : max(0, top + high), max(0, left) : max(0, left + wide)] = shade


def _light(clip: Clip, rng: Random) -> Film:
    """The light's strength and tint in every frame, (F, 1, 1, 3)."""
    n = clip.n_frames
    low, high = (1.15, 1.3) if clip.shifted else (0.72, 1.12)
    first, last = rng.uniform(low, high), rng.uniform(low, high)
    if rng.random() < 0.5:
        last = first
    level = np.linspace(first, last, n)
    if rng.random() < 0.2:  # it flickers
        level *= [rng.uniform(0.9, 1.1) for _ in range(n)]
    if clip.dark is not None:
        level[clip.dark[0] : clip.dark[1]] *= 0.33
    tint = np.array([rng.uniform(0.93, 1.07) for _ in range(3)])
    light: Film = (level[:, None] * tint).astype(np.float32)[:, None, None, :]
    return light


def render(clip: Clip) -> NDArray[np.uint8]:
    """Draw a clip.

    Returns:
        uint8 (F, 96, 96, 3), RGB.
    """
    rng = Random("draw " + clip.key)
    film = _backgrounds(clip, rng)
    _clutter(film, rng)
    for thing in clip.things:
        _draw_thing(film, thing, rng, clip.shifted)
    for pole in clip.poles:
        shade = np.float32(rng.uniform(14, 46))
        for t, left in enumerate(pole.left, pole.start):
            film[t, :, max(0, left) : max(0, left + pole.width)] = shade
    film *= _light(clip, rng)
    if rng.random() < 0.35:
        film = compress(film, rng.uniform(2.2, 3.0) if clip.shifted else rng.uniform(0.5, 1.8))
    strength = np.float32(rng.uniform(8, 11) if clip.shifted else rng.uniform(1, 6))
    for t in range(clip.n_frames):
        row, column = rng.randrange(SIZE), rng.randrange(SIZE)
        film[t] += strength * _sensor_noise()[row : row + SIZE, column : column + SIZE]
    return film.clip(0, 255, out=film).astype(np.uint8)
