"""Batches of the second world as numpy arrays, each a function of its number: worker processes make them."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from random import Random
from typing import Any

import numpy as np
from numpy.typing import NDArray

from adatp.scenes.asking import ask
from adatp.scenes.clips import Clip, Thing, make_clip, sample_clip
from adatp.scenes.evidence import Question, covered
from adatp.scenes.render import DOT_RADIUS
from adatp.scenes.vocabulary import CELL, COLOURS, DIRECTIONS, GRID, PLACES, SHAPES
from training.scenes.captions import Caption, caption, frame_content

IGNORE = -100
_COLOUR_IDS = {colour: i for i, colour in enumerate(COLOURS, 1)}
_SHAPE_IDS = {shape: i for i, shape in enumerate(SHAPES, 1)}
_PLACE_IDS = {place: i for i, place in enumerate(PLACES)}
_DIRECTION_IDS = {direction: i for i, direction in enumerate(DIRECTIONS, 1)}


@dataclass
class TokenLabels:
    """What every visual token shows, int64 (frames, 36) each but `offset`.

    Attributes:
        colour: Of a thing, counted from 1; 0 where there is none, `IGNORE` where one only grazes the token.
        shape: As `colour`.
        dot: Colour of a dot, as `colour`; only where there is a thing.
        place: Number of the place; `IGNORE` in soft changes.
        motion: Direction of the thing, counted from 1; 0 for one that rests; `IGNORE` where there is none,
            and in a thing's first frame.
        offset: float32 (frames, 36, 2): where the thing's centre lies from the token's, in tokens.
    """

    colour: NDArray[np.int64]
    shape: NDArray[np.int64]
    dot: NDArray[np.int64]
    place: NDArray[np.int64]
    motion: NDArray[np.int64]
    offset: NDArray[np.float32]


_CENTRES = np.stack(np.meshgrid(*[np.arange(GRID) * CELL + CELL / 2] * 2, indexing="ij"), axis=-1)


def token_labels(clip: Clip) -> TokenLabels:
    """Labels of every visual token of a clip."""
    n = clip.n_frames
    colour, shape, dot = (np.zeros((n, GRID, GRID), dtype=np.int64) for _ in range(3))
    motion = np.full((n, GRID, GRID), IGNORE)
    offset = np.zeros((n, GRID, GRID, 2), dtype=np.float32)
    for thing in clip.things:
        hidden = {*range(thing.start, thing.stop)} - {*clip.visible(thing)}
        for t, centre in enumerate(thing.path, thing.start):
            shown = covered(thing, t)
            top, left = ((np.array(centre) - thing.radius) // CELL).clip(0)
            bottom, right = -(-(np.array(centre) + thing.radius) // CELL)
            for label in (colour, shape, dot):
                label[t, top:bottom, left:right] = IGNORE  # grazed, unless shown below
            if t in hidden:
                continue
            look = thing.look_at(t)
            colour[t, shown], shape[t, shown], dot[t, shown] = _COLOUR_IDS[look[0]], _SHAPE_IDS[look[1]], 0
            offset[t, shown] = (np.array(centre) - _CENTRES[shown]) / CELL
            if thing.dot is not None and thing.dot[1][0] <= t < thing.dot[1][1]:
                dot[t, covered(thing, t, DOT_RADIUS)] = _COLOUR_IDS[thing.dot[0]]
            if thing.direction is None:
                motion[t, shown] = 0
            elif t > thing.start:
                motion[t, shown] = _DIRECTION_IDS[thing.direction]
    place = np.full((n, GRID, GRID), IGNORE)
    for scene in clip.scenes:
        place[scene.start + scene.fade : scene.stop] = _PLACE_IDS[scene.place]
    return TokenLabels(
        colour.reshape(n, -1),
        shape.reshape(n, -1),
        dot.reshape(n, -1),
        place.reshape(n, -1),
        motion.reshape(n, -1),
        offset.reshape(n, -1, 2),
    )


def joined(labels: list[TokenLabels]) -> TokenLabels:
    """Labels of several clips, one after the other."""
    names = TokenLabels.__dataclass_fields__
    return TokenLabels(**{name: np.concatenate([getattr(x, name) for x in labels]) for name in names})


@dataclass
class VisionBatch:
    """Single frames and texts.

    Attributes:
        pixels: uint8 (N, 96, 96, 3).
        texts: M captions.
        match: bool (M, N), which fit.
        labels: Of the N frames.
    """

    pixels: NDArray[np.uint8]
    texts: list[str]
    match: NDArray[np.bool_]
    labels: TokenLabels


def _dotted(clip: Clip, rng: Random) -> Clip:
    """The clip with dots on a quarter of its things, as long as they are visible."""

    def dot(thing: Thing) -> Thing:
        colour = rng.choice([colour for colour in COLOURS if colour != thing.look[0]])
        return replace(thing, dot=(colour, (thing.start, thing.stop))) if rng.random() < 0.25 else thing

    return replace(clip, things=tuple(map(dot, clip.things)))


def vision_batch(seed: int, n_frames: int) -> VisionBatch:
    """Frames of crowded clips of two frames, in part with larger things, and two captions a frame."""
    rng = Random(f"vision {seed}")
    pixels, labels, contents = [], [], []
    for i in range(n_frames // 2):
        key = f"vision {seed} {i}"
        density, larger = rng.choice((1.0, 3.0, 6.0)), rng.choice((0, 0, 0, 4))
        clip = _dotted(sample_clip(Random(key), 2, key, density=density, larger=larger), rng)
        labels.append(token_labels(clip))
        pixels.append(clip.frames)
        contents += [frame_content(clip, t) for t in range(2)]
    captions: list[Caption] = [caption(rng, *content) for content in contents for _ in range(2)]
    match = np.array([[text.matches(*content) for content in contents] for text in captions])
    return VisionBatch(np.concatenate(pixels), [text.text for text in captions], match, joined(labels))


@dataclass
class Named:
    """What training knows about a question besides its answer.

    Attributes:
        words: Word number of the last word of each name in the question, and the middle frame of what it
            names.
        chosen: Of three names the number of the one that is the answer, or of two whether the second is
            later; None where neither applies.
        members: For a count, 0 or 1 for each colour and shape: what is counted; None otherwise.
    """

    words: list[tuple[int, float]]
    chosen: int | None
    members: list[float] | None


def name_facts(clip: Clip, question: Question) -> Named:
    """Where a question's words name things and places, and when those are visible."""
    words, found, at = question.text.split(), list[tuple[int, float]](), 0
    for name in question.names if question.kind != "count" else ():
        text, thing = name.text.split(), clip.things[name.thing]
        at = next((i for i in range(at, len(words)) if words[i : i + len(text)] == text), len(words))
        if at == len(words):
            break
        at += len(text)
        found.append((at - 1, (thing.start + thing.stop - 1) / 2))
    if not question.names:
        for scene in clip.scenes:
            if scene.place in words and question.kind != "exists":
                found.append((words.index(scene.place), (scene.start + scene.stop - 1) / 2))
    chosen, members = None, None
    if question.kind == "before/after":
        chosen = int(question.answer == "before")
    elif question.kind == "first/last":
        chosen = [name.shape for name in question.names].index(question.answer)
    elif question.kind == "count":
        looks = {look for name in question.names for look in clip.things[name.thing].look}
        members = [float(look in looks) for look in (*COLOURS, *SHAPES)]
    return Named(found, chosen, members)


@dataclass
class ClipBatch:
    """Clips of one length, B of them, with their questions.

    Attributes:
        pixels: uint8 (B, F, 96, 96, 3).
        questions: B lists of (kind, text, answer).
        facts: B lists of what training knows of each question.
        labels: Of the B x F frames.
    """

    pixels: NDArray[np.uint8]
    questions: list[list[tuple[str, str, str]]]
    facts: list[list[Named]]
    labels: TokenLabels


def clip_batch(
    seed: int, n_clips: int, n_frames: int, n_questions: int, weights: dict[str, float]
) -> ClipBatch:
    """New clips of the split `train` with up to `n_questions` questions each."""
    clips = [make_clip(seed * 1000 + i, n_frames) for i in range(n_clips)]
    asked = [ask(clip, seed, n_questions, weights) for clip in clips]
    return ClipBatch(
        np.stack([clip.frames for clip in clips]),
        [[(q.kind, q.text, q.answer) for q in questions] for questions in asked],
        [[name_facts(clip, q) for q in questions] for clip, questions in zip(clips, asked, strict=True)],
        joined([token_labels(clip) for clip in clips]),
    )


def _call(job: tuple[Callable[..., Any], tuple[Any, ...]]) -> Any:
    function, arguments = job
    return function(*arguments)


def stream(jobs: Iterator[tuple[Callable[..., Any], tuple[Any, ...]]], workers: int) -> Iterator[Any]:
    """The results of jobs, in order, made ahead of their use by worker processes; here if `workers` is 0.

    Args:
        jobs: (function, arguments) pairs, without end or not.
        workers: Processes.
    """
    if workers == 0:
        yield from map(_call, jobs)
        return
    context = multiprocessing.get_context("spawn")  # a fork after CUDA has started is broken
    with context.Pool(workers) as pool:
        ahead = [pool.apply_async(_call, (job,)) for _, job in zip(range(3 * workers), jobs, strict=False)]
        while ahead:
            yield ahead.pop(0).get()
            ahead += [pool.apply_async(_call, (job,)) for _, job in zip(range(1), jobs, strict=False)]
