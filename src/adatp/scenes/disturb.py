"""Disturbances of finished frames, to test methods with. No split has them."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from .render import compress

Frames = NDArray[np.uint8]


def _noise(frames: Frames, rng: np.random.Generator) -> Frames:
    noisy = frames + rng.normal(0, 14, frames.shape).astype(np.float32)
    return noisy.clip(0, 255).astype(np.uint8)


def _pan(frames: Frames, rng: np.random.Generator) -> Frames:
    """Two pixels a frame to one side and back, up to 8 away; edge pixels are repeated."""
    side, way = frames.shape[2], int(rng.choice((-1, 1)))
    gone = way * 2 * (4 - abs(np.arange(len(frames)) % 16 - 8))
    columns = (np.arange(side) + gone[:, None]).clip(0, side - 1)
    panned: Frames = np.take_along_axis(frames, columns[:, None, :, None], axis=2)
    return panned


def _compression(frames: Frames, _: np.random.Generator) -> Frames:
    return compress(frames.astype(np.float32), 4.0).clip(0, 255).astype(np.uint8)


def _dim(frames: Frames, _: np.random.Generator) -> Frames:
    return (frames * np.float32(0.45)).astype(np.uint8)


DISTURBANCES: dict[str, Callable[[Frames, np.random.Generator], Frames]] = {
    "noise": _noise,
    "pan": _pan,
    "compression": _compression,
    "dim": _dim,
}
"""Name -> function that changes the frames."""


def disturb(frames: Frames, kind: str, seed: int) -> Frames:
    """Disturb the frames of a clip.

    Args:
        frames: uint8 (F, 96, 96, 3).
        kind: A key of `DISTURBANCES`.
        seed: Seed of random parts.

    Returns:
        New frames, the same for the same arguments.

    Raises:
        ValueError: If the kind is unknown.
    """
    if kind not in DISTURBANCES:
        raise ValueError(f"unknown disturbance {kind!r}: choose from {', '.join(DISTURBANCES)}")
    return DISTURBANCES[kind](frames, np.random.default_rng(seed))
