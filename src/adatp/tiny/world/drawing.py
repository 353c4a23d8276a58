"""Draws a clip: backgrounds, scene changes, textured shapes, sensor noise."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from .vocabulary import COLOURS

if TYPE_CHECKING:
    from .clip import Clip

SIZE = 96
"""Height and width of a frame in pixels."""


@cache
def _mask(shape: str, radius: int) -> NDArray[np.float32]:
    """Coverage of a shape in its box, (2 radius, 2 radius) in 0..1, anti-aliased by 4 x 4 samples per
    pixel.
    """
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
    """A pool of sensor noise to cut windows from: drawing new noise would cost more than everything else."""
    return np.random.default_rng(0).normal(0, 2.5, (2 * SIZE, 2 * SIZE, 3)).astype(np.float32)


def _background(rng: np.random.Generator, shifted: bool) -> NDArray[np.float32]:
    """A dim, smooth, faintly tinted background, (SIZE, SIZE, 3)."""
    low, high = (90, 120) if shifted else (15, 90)
    level = rng.uniform(low, high) + rng.uniform(-12, 12, 3) + rng.uniform(-14, 14, (7, 7, 1))
    knots = np.moveaxis(level.astype(np.float32), -1, 0)
    return np.moveaxis(_blend() @ knots @ _blend().T, 0, -1).clip(0, high + 20)


def _shade(rng: np.random.Generator, colour: str, shifted: bool) -> NDArray[np.float32]:
    """A colour as painted once: at most 12 from its named value, or 16 to 24 where shifted."""
    away = rng.uniform(-12, 12, 3)
    if shifted:
        away = rng.choice([-1, 1], 3) * rng.uniform(16, 24, 3)
    return (np.array(COLOURS[colour]) + away).astype(np.float32)


def render(clip: Clip) -> NDArray[np.uint8]:
    """The frames of a clip: uint8 (F, SIZE, SIZE, 3), RGB, the same for equal clips."""
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
