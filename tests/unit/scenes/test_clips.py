"""The second world's clips: the same for the same seed, others in other splits, drawn as their data say."""

from __future__ import annotations

import numpy as np
import pytest

from adatp.scenes import SPLITS, Clip, make_clip
from adatp.scenes.clips import Pole, Scene, Thing
from adatp.scenes.evidence import covered
from adatp.scenes.places import draw_place
from adatp.scenes.vocabulary import CELL, COLOURS, PLACES, words


def test_same_arguments_draw_the_same_clip() -> None:
    first, again = make_clip(3, 6), make_clip(3, 6)
    assert first == again
    assert np.array_equal(first.frames, again.frames)
    assert first.frames.shape == (6, 96, 96, 3)
    assert first.frames.dtype == np.uint8


def test_seeds_splits_and_lengths_draw_different_clips() -> None:
    clips = [make_clip(0, 4, split) for split in SPLITS] + [make_clip(1, 4), make_clip(0, 5)]
    for i, one in enumerate(clips):
        for other in clips[:i]:
            assert one.key != other.key
            assert not np.array_equal(one.frames[:4], other.frames[:4])


def test_no_clip_of_one_split_comes_back_in_another() -> None:
    observed: dict[tuple[Thing, ...], str] = {}
    for split in SPLITS:
        for seed in range(120):
            things = make_clip(seed, 16, split).things
            assert observed.setdefault(things, split) == split


def test_unknown_splits_and_empty_clips_are_refused() -> None:
    with pytest.raises(ValueError, match="unknown split 'tests'"):
        make_clip(0, 4, "tests")
    with pytest.raises(ValueError, match="at least one frame, not 0"):
        make_clip(0, 0)


@pytest.mark.parametrize("n", [1, 2, 7, 16, 128])
def test_scenes_cover_the_clip_with_different_places(n: int) -> None:
    for seed in range(40):
        clip = make_clip(seed, n)
        assert [scene.start for scene in clip.scenes] == [0, *(scene.stop for scene in clip.scenes[:-1])]
        assert clip.scenes[-1].stop == n
        assert len({scene.place for scene in clip.scenes}) == len(clip.scenes)
        for thing in clip.things:
            assert 0 <= thing.start < thing.stop <= n


def test_looks_are_unique_and_things_never_overlap() -> None:
    for seed in range(60):
        clip = make_clip(seed, 16)
        looks = [look for thing in clip.things for look in thing.looks]
        assert len(set(looks)) == len(looks)
        for i, a in enumerate(clip.things):
            for b in clip.things[:i]:
                for t in range(max(a.start, b.start), min(a.stop, b.stop)):
                    apart = np.abs(np.array(a.path[t - a.start]) - b.path[t - b.start]).max()
                    assert apart >= a.radius + b.radius


def _clip(*things: Thing, poles: tuple[Pole, ...] = (), camera: str = "still", place: str = "sea") -> Clip:
    return Clip(4, (Scene(place, 0, 4, camera, 0),), things, poles, None, "test 0")


def _nearest_colour(pixels: np.ndarray) -> str:
    """The colour whose direction, not brightness, is nearest to the median of pixels (n, 3)."""
    median = np.median(pixels.astype(float), axis=0)
    names = list(COLOURS)
    distances = [
        np.linalg.norm(median / np.linalg.norm(median) - np.array(rgb) / np.linalg.norm(rgb))
        for rgb in COLOURS.values()
    ]
    return names[int(np.argmin(distances))]


@pytest.mark.parametrize("place", PLACES)
def test_a_thing_is_painted_where_and_as_its_data_say(place: str) -> None:
    thing = Thing(("red", "square"), "flash", 9, 1, ((40, 50), (40, 50)))
    frames = _clip(thing, place=place).frames
    assert _nearest_colour(frames[1, 36:44, 46:54].reshape(-1, 3)) == "red"
    assert _nearest_colour(frames[3, 36:44, 46:54].reshape(-1, 3)) != "red"


def test_turns_and_dots_show_in_their_frames_only() -> None:
    turning = Thing(("red", "square"), "resident", 12, 0, ((30, 30),) * 4, turn=(2, ("blue", "square")))
    dotted = Thing(("white", "square"), "resident", 12, 0, ((70, 70),) * 4, dot=("green", (1, 2)))
    frames = _clip(turning, dotted).frames
    inside = [_nearest_colour(frame[24:36, 24:36].reshape(-1, 3)) for frame in frames]
    assert inside == ["red", "red", "blue", "blue"]
    middles = [_nearest_colour(frame[68:72, 68:72].reshape(-1, 3)) for frame in frames]
    assert [middle == "green" for middle in middles] == [False, True, False, False]


def test_poles_hide_things() -> None:
    thing = Thing(("red", "square"), "resident", 10, 0, ((40, 50),) * 4)
    pole = Pole(1, (0, 42), 16)
    clip = _clip(thing, poles=(pole,))
    assert clip.visible(thing) == (0, 1, 3)
    assert clip.frames[2, :, 43:57].max() < 110  # dark, noise included
    assert covered(thing, 0).sum() == 2


@pytest.mark.parametrize(("camera", "moves"), [("still", False), ("pan", True), ("shake", True)])
def test_the_camera_moves_the_background(camera: str, moves: bool) -> None:
    """Block means, so that sensor noise does not count."""
    frames = _clip(camera=camera, place="tiles").frames.astype(float)
    blocks = frames.reshape(4, 96 // CELL * 4, 4, 96 // CELL * 4, 4, 3).mean((2, 4))
    change = np.abs(np.diff(blocks, axis=0)).mean()
    assert (change > 6) == moves


def test_places_can_be_recognised_by_their_pixels() -> None:
    """By the nearest of other drawings in colour and texture: far better than one in twelve."""
    from random import Random

    def numbers(place: str, seed: int) -> np.ndarray:
        image = draw_place(place, Random(f"{place} {seed}"))
        edges = [np.abs(np.diff(image, axis=axis)).mean() for axis in (0, 1)]
        return np.array([*image.mean((0, 1)), *image[:40].mean((0, 1)), *image[-40:].mean((0, 1)), *edges])

    known = np.array([[numbers(place, seed) for place in PLACES] for seed in range(4)])
    hits = [
        np.linalg.norm(known - numbers(place, seed), axis=-1).min(0).argmin() == i
        for i, place in enumerate(PLACES)
        for seed in (10, 11)
    ]
    assert np.mean(hits) > 0.6


def test_words_are_unique() -> None:
    assert len(words()) == len(set(words()))
