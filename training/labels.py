"""Labels for training from the ground truth of a clip: of single visual tokens and of words."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from adatp.tiny.sizes import PATCH
from adatp.tiny.world import COLOURS, DIRECTIONS, SHAPES, SIZE, Clip, Question, Thing, matches

CELL = 2 * PATCH
"""Side of the square of pixels that one visual token covers."""

IGNORE = -100


def cell_labels(things: Iterable[tuple[Thing, tuple[int, int]]]) -> NDArray[np.int64]:
    """Label what each visual token of a frame shows.

    Args:
        things: What is in the frame, each with its centre (row, column) there.

    Returns:
        int64 (3, 36): colour, shape and corner of the frame, counted from 1; 0 where there is nothing,
            `IGNORE` where a thing only touches the cell.
    """
    side = SIZE // CELL
    edges = np.arange(side) * CELL
    labels = np.zeros((3, side, side), dtype=np.int64)
    for thing, (row, column) in things:
        rows, columns = (
            np.minimum(edges + CELL, c + thing.radius) - np.maximum(edges, c - thing.radius)
            for c in (row, column)
        )
        overlap = rows.clip(0)[:, None] * columns.clip(0)
        shown = overlap > 0.2 * min(CELL, 2 * thing.radius) ** 2
        corner = 2 * (row > SIZE / 2) + (column > SIZE / 2)
        names = (list(COLOURS).index(thing.colour), SHAPES.index(thing.shape), corner)
        for label, name in zip(labels, names, strict=True):
            label[(overlap > 0) & ~shown] = IGNORE
            label[shown] = 1 + name
    return labels.reshape(3, -1)


def frame_things(clip: Clip, t: int) -> list[tuple[Thing, tuple[int, int]]]:
    """The things that frame t shows, each with its centre there."""
    return [(x, x.path[t - x.start]) for x in clip.things if x.start <= t < x.stop]


def motion_labels(clip: Clip) -> NDArray[np.int64]:
    """Label the direction in which the thing that each visual token shows is moving.

    Returns:
        int64 (F, 36): direction, counted from 1; 0 for a thing that stays; `IGNORE` for everything else, and
        for moving things in their first frame.
    """
    labels = np.full((clip.n_frames, (SIZE // CELL) ** 2), IGNORE)
    for t in range(clip.n_frames):
        for thing, centre in frame_things(clip, t):
            shown = cell_labels([(thing, centre)])[0] > 0
            if thing.direction is None:
                labels[t, shown] = 0
            elif t > thing.start:
                labels[t, shown] = 1 + list(DIRECTIONS).index(thing.direction)
    return labels


def named_times(clip: Clip, question: Question) -> list[tuple[int, float]]:
    """Which words of a question name one thing of the clip, and in which frame (the middle of its life).

    Returns:
        (number of the name's last word, frame), in the order of naming.
    """
    words, found, at = question.text.split(), [], 0
    for colour, shape in question.about:
        things = [thing for thing in clip.things if matches(thing, (colour, shape))]
        name = [*([colour] if colour else []), shape or "thing"]
        at = next((i for i in range(at, len(words)) if words[i : i + len(name)] == name), len(words))
        if len(things) == 1 and at < len(words):
            found.append((at + len(name) - 1, (things[0].start + things[0].stop - 1) / 2))
            at += len(name)
    return found


def counted(clip: Clip, question: Question) -> tuple[int, list[float]] | None:
    """What a question on a number counts: the number of the word "things", and the colours and shapes of the
    things that are meant, as one 0 or 1 for each colour and shape; None for other questions."""
    if question.kind != "count":
        return None
    meant = [thing for thing in clip.things if matches(thing, question.about[0])]
    looks = {look for thing in meant for look in (thing.colour, thing.shape)}
    return question.text.split().index("things"), [float(look in looks) for look in (*COLOURS, *SHAPES)]
