"""Questions of the second world, and the visual tokens that show their evidence."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from .clips import Clip, Thing
from .naming import Name
from .render import DOT_RADIUS
from .vocabulary import CELL, GRID

Kind = Literal["thing", "dot", "place"]


@dataclass(frozen=True)
class Shown:
    """A piece of evidence.

    Attributes:
        what: "thing", the "dot" on a thing, or the "place": every token of a frame.
        thing: Number of the thing in `Clip.things`; -1 for a place.
        frames: The frames that show it.
    """

    what: Kind
    thing: int
    frames: tuple[int, ...]


@dataclass(frozen=True)
class Question:
    """A question on a clip, its one-word answer, and the evidence for it.

    Attributes:
        kind: A key of `QUESTION_TYPES`.
        text: The question, lower case.
        answer: One word.
        shows: The evidence; empty where the answer is that something is not there.
        names: The things that it names, in the order of naming.
    """

    kind: str
    text: str
    answer: str
    shows: tuple[Shown, ...]
    names: tuple[Name, ...] = ()


def covered(thing: Thing, t: int, radius: int | None = None) -> NDArray[np.bool_]:
    """The visual tokens that show a thing in frame t, or the square of a smaller radius in its middle.

    Returns:
        bool (6, 6).
    """
    half = thing.radius if radius is None else radius
    row, column = thing.path[t - thing.start]
    edges = np.arange(GRID) * CELL
    rows, columns = (
        (np.minimum(edges + CELL, c + half) - np.maximum(edges, c - half)).clip(0) for c in (row, column)
    )
    shown: NDArray[np.bool_] = rows[:, None] * columns > 0.2 * min(CELL, 2 * half) ** 2
    return shown


def evidence(clip: Clip, question: Question) -> NDArray[np.bool_]:
    """The visual tokens that show the evidence of a question.

    Returns:
        bool (F, 36), tokens of a frame row by row.
    """
    shown = np.zeros((clip.n_frames, GRID, GRID), dtype=bool)
    for piece in question.shows:
        for t in piece.frames:
            if piece.what == "place":
                shown[t] = True
            else:
                radius = DOT_RADIUS if piece.what == "dot" else None
                shown[t] |= covered(clip.things[piece.thing], t, radius)
    return shown.reshape(clip.n_frames, -1)
