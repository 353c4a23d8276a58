"""The embedded model's world: clips from seeds, and questions whose answers are known."""

from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from adatp.tiny import world

seeds = st.integers(0, 10_000)
lengths = st.sampled_from([1, 2, 3, 8, 16, 32])


@settings(max_examples=20, deadline=None)
@given(seed=seeds, n_frames=lengths)
def test_a_clip_is_its_seed(seed, n_frames):
    one, two = (world.make_clip(seed, n_frames) for _ in range(2))
    assert one.frames.shape == (n_frames, 96, 96, 3)
    assert one.frames.dtype == np.uint8
    assert np.array_equal(one.frames, two.frames)
    assert (one.things, one.cuts) == (two.things, two.cuts)


def test_splits_and_seeds_differ():
    clips = [world.make_clip(seed, 8, split) for split in world.SPLITS for seed in (0, 1)]
    assert len({clip.frames.tobytes() for clip in clips}) == len(clips)


@settings(max_examples=40, deadline=None)
@given(seed=seeds, n_frames=lengths)
def test_things_stay_in_the_frame_and_apart(seed, n_frames):
    clip = world.make_clip(seed, n_frames)
    assert clip.things
    assert len({(thing.colour, thing.shape) for thing in clip.things}) == len(clip.things)
    for thing in clip.things:
        assert 0 <= thing.start < thing.stop <= n_frames
        assert len(thing.path) <= 2 or not thing.flash
        path = np.array(thing.path)
        assert path.min() >= thing.radius
        assert path.max() <= 96 - thing.radius
        for t in range(thing.start, thing.stop):
            for other in clip.things:
                if other is not thing and other.start <= t < other.stop:
                    centres = thing.path[t - thing.start], other.path[t - other.start]
                    apart = np.abs(np.subtract(*centres)).max()
                    assert apart >= thing.radius + other.radius


@settings(max_examples=20, deadline=None)
@given(seed=seeds)
def test_what_the_metadata_say_is_what_is_drawn(seed):
    clip = world.make_clip(seed, 8)
    for thing in clip.things:
        if thing.shape in ("circle", "square", "cross"):  # shapes that cover their centre
            for t, (row, column) in enumerate(thing.path, thing.start):
                observed = clip.frames[t, row - 1 : row + 1, column - 1 : column + 1].mean((0, 1))
                nearest = min(
                    world.COLOURS, key=lambda name: np.abs(observed - np.array(world.COLOURS[name])).sum()
                )
                assert nearest == thing.colour


def test_moving_things_move_as_they_say():
    clips = [world.make_clip(seed, 8) for seed in range(40)]
    moving = [thing for clip in clips for thing in clip.things if thing.direction]
    assert {thing.direction for thing in moving} == set(world.DIRECTIONS)
    for thing in moving:
        steps = np.diff(np.array(thing.path), axis=0)
        along = steps @ np.array(world.DIRECTIONS[thing.direction])
        assert along.min() >= 0
        assert along.sum() >= world.TRAVEL - 1
        assert along.max() <= 17
        assert np.array_equal(np.abs(steps).sum(1), along)
    still = [thing for clip in clips for thing in clip.things if not thing.direction]
    assert all(len(set(thing.path)) == 1 for thing in still)


@settings(max_examples=20, deadline=None)
@given(seed=seeds, n_frames=st.sampled_from([2, 4, 16]))
def test_questions_have_known_answers_and_words(seed, n_frames):
    clip = world.make_clip(seed, n_frames)
    known = set(world.words())
    questions = world.ask(clip, seed, 30)
    assert questions == world.ask(clip, seed, 30)
    assert len(questions) == len({(question.text, question.answer) for question in questions})
    for question in questions:
        assert question.answer in world.ANSWERS[question.kind]
        assert set(question.text.split()) | {question.answer} <= known
        gone = question.kind == "exists" and question.answer == "no"
        assert world.evidence(clip, question.about).any() != gone


def test_a_question_has_one_answer():
    for seed in range(50):
        clip = world.make_clip(seed, 16)
        every = [question for make in world.QUESTION_TYPES.values() for question in make(clip)]
        assert len({question.text for question in every}) == len(every)


def test_answers_by_hand():
    def thing(colour, shape, start, path, direction=None, flash=False):
        return world.Thing(colour, shape, 8, start, path, direction, flash)

    things = (
        thing("red", "star", 0, ((20, 70),) * 2, flash=True),
        thing("red", "ring", 0, ((70, 20), (70, 36), (70, 52)), "right"),
        thing("blue", "star", 5, ((60, 60),), flash=True),
    )
    clip = world.Clip(8, things, (0, 5), (0,))
    answers = {q.text: q.answer for make in world.QUESTION_TYPES.values() for q in make(clip)}
    expected = {
        "what colour is the ring ?": "red",
        "what shape is the blue thing ?": "star",
        "is there a red star ?": "yes",
        "is there a red ring ?": "yes",
        "is there a blue star ?": "yes",
        "is there a blue ring ?": "no",
        "where is the red star ?": "northeast",
        "where is the blue thing ?": "southeast",
        "is the red star early or late ?": "early",
        "is the ring early or late ?": "early",
        "is the blue thing early or late ?": "late",
        "is the red star before or after the blue thing ?": "before",
        "is the ring before or after the blue thing ?": "before",
        "is the blue thing before or after the red star ?": "after",
        "is the blue thing before or after the ring ?": "after",
        "which way does the ring move ?": "right",
        "how many star things are there ?": "two",
        "how many blue things are there ?": "one",
        "where is the blue star ?": "southeast",
        "is the blue star early or late ?": "late",
        "is the red ring early or late ?": "early",
        "is there a green star ?": "no",
    }
    assert expected.items() <= answers.items()
    of_two = {text for text in answers if " before or after " in text or text.startswith("is there")}
    assert set(answers) - set(expected) - of_two == {"which way does the red ring move ?"}
    clip = world.Clip(8, (*things[1:2], thing("blue", "moon", 5, ((60, 60),))), (0, 5), (0,))
    answers = {q.text: q.answer for q in world.QUESTION_TYPES["first/last"](clip)}
    assert answers == {
        f"which is seen {end} , the {pair} ?": answer
        for end, answer in (("first", "ring"), ("last", "moon"))
        for pair in ("ring or the moon", "moon or the ring")
    }


def test_flashes_come_anywhere_equally():
    flashes = [
        (thing.start + len(thing.path) / 2) / 16
        for seed in range(400)
        for thing in world.make_clip(seed, 16).things
        if thing.flash
    ]
    thirds = np.histogram(flashes, bins=3, range=(0, 1))[0] / len(flashes)
    assert thirds.min() > 0.25


def test_shifted_is_outside_the_training_ranges():
    radii = {
        split: [thing.radius for seed in range(40) for thing in world.make_clip(seed, 16, split).things]
        for split in ("test", "shifted")
    }
    assert max(radii["test"]) <= 14
    assert min(radii["shifted"]) >= 11
    brightness = {
        split: np.median([np.median(world.make_clip(seed, 8, split).frames) for seed in range(20)])
        for split in ("test", "shifted")
    }
    assert brightness["shifted"] > brightness["test"] + 15


def test_benchmark_is_balanced():
    rows = list(world.benchmark("test", 16, 72))
    assert set(Counter(question.kind for _, question in rows).values()) == {8}
    for kind, answers in world.ANSWERS.items():
        counts = Counter(question.answer for _, question in rows if question.kind == kind)
        assert max(counts.values()) - min(counts[answer] for answer in answers) <= 1
    assert len({seed for seed, _ in rows}) == len(rows)
    for seed, question in rows[:8]:
        assert question in world.QUESTION_TYPES[question.kind](world.make_clip(seed, 16, "test"))


def test_world_refuses():
    with pytest.raises(ValueError, match="unknown split 'tset'"):
        world.make_clip(0, 8, "tset")
    with pytest.raises(ValueError, match="at least one frame"):
        world.make_clip(0, 0)
    with pytest.raises(ValueError, match="3 frames"):
        next(world.benchmark("test", 3, 8))
