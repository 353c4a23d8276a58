"""Disturbances: repeatable, and each does what its name says."""

from __future__ import annotations

import numpy as np
import pytest

from adatp.scenes import DISTURBANCES, disturb, make_clip

FRAMES = make_clip(4, 12).frames


@pytest.mark.parametrize("kind", DISTURBANCES)
def test_frames_change_and_do_so_again(kind: str) -> None:
    before = FRAMES.copy()
    changed = disturb(FRAMES, kind, 3)
    assert changed.shape == FRAMES.shape
    assert changed.dtype == np.uint8
    assert not np.array_equal(changed, FRAMES)
    assert np.array_equal(changed, disturb(FRAMES, kind, 3))
    assert np.array_equal(FRAMES, before)


def test_each_does_what_its_name_says() -> None:
    blocks = FRAMES.reshape(12, 12, 8, 12, 8, 3).astype(float)
    noise = disturb(FRAMES, "noise", 0).astype(float) - FRAMES
    assert 8 < noise.std() < 15
    panned = disturb(FRAMES, "pan", 0)
    assert np.array_equal(panned[0, :, 8:-8], FRAMES[0, :, 16:]) or np.array_equal(
        panned[0, :, 8:-8], FRAMES[0, :, :-16]
    )
    assert np.array_equal(panned[4], FRAMES[4])
    flat = disturb(FRAMES, "compression", 0).reshape(blocks.shape).astype(float)
    assert flat.std((2, 4)).mean() < 0.95 * blocks.std((2, 4)).mean()
    assert disturb(FRAMES, "dim", 0).mean() < 0.5 * FRAMES.mean()


def test_unknown_disturbances_are_refused() -> None:
    with pytest.raises(ValueError, match="unknown disturbance 'fog'"):
        disturb(FRAMES, "fog", 0)
