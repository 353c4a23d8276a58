"""The types of questions: for each, every question that a clip answers without doubt.

An answer is computed from the metadata (`Clip.things`), not from pixels. To add a type, write a function
`Clip -> list of Question`, and name it in `QUESTION_TYPES` and its answers in `ANSWERS`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from .clip import Clip, Description, Thing, matches
from .drawing import SIZE
from .vocabulary import COLOURS, CORNERS, DIRECTIONS, HALVES, NUMBERS, ORDERS, SHAPES


@dataclass(frozen=True)
class Question:
    """A question on a clip, its one-word answer, and the place of the evidence.

    Attributes:
        kind: A key of `QUESTION_TYPES`.
        text: The question, lower case.
        answer: One word.
        about: Descriptions of the things it asks about: a frame that shows one of them is evidence.
    """

    kind: str
    text: str
    answer: str
    about: tuple[Description, ...]


def _article(word: str) -> str:
    return "an" if word[0] in "aeiou" else "a"


def _named(clip: Clip) -> Iterator[tuple[Thing, Description, str]]:
    """Every thing under each name that only it has: its shape, its colour, and both together."""
    colours = [thing.colour for thing in clip.things]
    shapes = [thing.shape for thing in clip.things]
    for thing in clip.things:
        if shapes.count(thing.shape) == 1:
            yield thing, (None, thing.shape), thing.shape
        if colours.count(thing.colour) == 1:
            yield thing, (thing.colour, None), f"{thing.colour} thing"
        if shapes.count(thing.shape) > 1 or colours.count(thing.colour) > 1:
            yield thing, (thing.colour, thing.shape), f"{thing.colour} {thing.shape}"


def _apart(clip: Clip) -> Iterator[tuple[Thing, Thing, Description, Description, str, str]]:
    """Pairs of things of which the first is gone before the second comes, with their names."""
    named = list(_named(clip))
    for a, about_a, name_a in named:
        for b, about_b, name_b in named:
            if a.stop < b.start:
                yield a, b, about_a, about_b, name_a, name_b


def _colour(clip: Clip) -> list[Question]:
    return [
        Question("colour", f"what colour is the {name} ?", thing.colour, (about,))
        for thing, about, name in _named(clip)
        if about[0] is None
    ]


def _shape(clip: Clip) -> list[Question]:
    return [
        Question("shape", f"what shape is the {name} ?", thing.shape, (about,))
        for thing, about, name in _named(clip)
        if about[1] is None
    ]


def _exists(clip: Clip) -> list[Question]:
    """Yes: a pair that is there. No: a pair that is not there although its shape is.

    Usually the colour of the missing pair is there as well, on another thing.
    """
    there = {(thing.colour, thing.shape) for thing in clip.things}
    crossed = {(a.colour, b.shape) for a in clip.things for b in clip.things} - there
    absent = [colour for colour in COLOURS if all(colour != thing.colour for thing in clip.things)]
    crossed |= {(absent[i % len(absent)], thing.shape) for i, thing in enumerate(clip.things) if absent}
    return [
        Question("exists", f"is there {_article(colour)} {colour} {shape} ?", answer, ((colour, shape),))
        for answer, pairs in (("yes", there), ("no", crossed))
        for colour, shape in sorted(pairs)
    ]


def _where(clip: Clip) -> list[Question]:
    questions = []
    for thing, about, name in _named(clip):
        (row, column), middle = thing.path[0], SIZE / 2
        if thing.direction is None and min(abs(row - middle), abs(column - middle)) > 6:
            answer = CORNERS[2 * (row > middle) + (column > middle)]
            questions.append(Question("where", f"where is the {name} ?", answer, (about,)))
    return questions


def _when(clip: Clip) -> list[Question]:
    """Early or late: in one half of the clip, and not within a sixteenth of its middle."""
    questions = []
    n = clip.n_frames
    for thing, about, name in _named(clip):
        early, late = 16 * thing.stop <= 7 * n, 16 * thing.start >= 9 * n
        if early or late:
            answer = HALVES[late]
            questions.append(Question("when", f"is the {name} early or late ?", answer, (about,)))
    return questions


def _first_last(clip: Clip) -> list[Question]:
    """Which of two things is first, or last, named in either order: their places give no answer away."""
    return [
        Question("first/last", f"which is seen {end} , the {one.shape} or the {two.shape} ?", answer, about)
        for a, b, about_a, about_b, name_a, name_b in _apart(clip)
        if name_a == a.shape and name_b == b.shape
        for end, answer in (("first", a.shape), ("last", b.shape))
        for one, two, about in ((a, b, (about_a, about_b)), (b, a, (about_b, about_a)))
    ]


def _before_after(clip: Clip) -> list[Question]:
    return [
        Question("before/after", f"is the {one} before or after the {two} ?", answer, about)
        for _, _, about_a, about_b, name_a, name_b in _apart(clip)
        for one, two, answer, about in (
            (name_a, name_b, "before", (about_a, about_b)),
            (name_b, name_a, "after", (about_b, about_a)),
        )
    ]


def _direction(clip: Clip) -> list[Question]:
    return [
        Question("direction", f"which way does the {name} move ?", thing.direction, (about,))
        for thing, about, name in _named(clip)
        if thing.direction is not None
    ]


def _count(clip: Clip) -> list[Question]:
    """How many different things of one shape or colour there are, if all of them are flashes.

    At most one question has the answer one: most colours and shapes occur once, and would dominate.
    """
    questions: list[Question] = []
    for what, named in (
        *(((thing.colour, None), f"{thing.colour} things") for thing in clip.things[::2]),
        *(((None, thing.shape), f"{thing.shape} things") for thing in clip.things),
        *(((thing.colour, None), f"{thing.colour} things") for thing in clip.things[1::2]),
    ):
        if any(question.about == (what,) for question in questions):
            continue
        things = [thing for thing in clip.things if matches(thing, what)]
        alone = len(things) == 1 and any(question.answer == NUMBERS[0] for question in questions)
        if 0 < len(things) <= len(NUMBERS) and all(thing.flash for thing in things) and not alone:
            answer = NUMBERS[len(things) - 1]
            questions.append(Question("count", f"how many {named} are there ?", answer, (what,)))
    return questions


QUESTION_TYPES: dict[str, Callable[[Clip], list[Question]]] = {
    "colour": _colour,
    "shape": _shape,
    "exists": _exists,
    "where": _where,
    "when": _when,
    "first/last": _first_last,
    "before/after": _before_after,
    "direction": _direction,
    "count": _count,
}
"""Question type -> every question of that type that a clip answers without doubt."""

ANSWERS: dict[str, tuple[str, ...]] = {
    "colour": tuple(COLOURS),
    "shape": SHAPES,
    "exists": ("yes", "no"),
    "where": CORNERS,
    "when": HALVES,
    "first/last": SHAPES,
    "before/after": ORDERS,
    "direction": tuple(DIRECTIONS),
    "count": NUMBERS,
}
"""Question type -> the answers it has; chance is one in their number (one in two for "first/last")."""
