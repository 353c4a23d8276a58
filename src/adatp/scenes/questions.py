"""The question types of the second world: every question of a type that a clip answers without doubt.

To add a type, write a function `(Clip, Random) -> list of Question` and name it in `QUESTION_TYPES` and
`ANSWERS`.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from random import Random

from .clips import Clip
from .evidence import Question, Shown
from .naming import Name, fits, may_be_in, only_place, placed_names, plain_names
from .vocabulary import (
    COLOURS,
    CORNERS,
    DIRECTIONS,
    EIGHTHS,
    NUMBERS,
    ORDERS,
    PLACES,
    SHAPES,
    SIZE,
)


def _see(clip: Clip, *names: Name) -> tuple[Shown, ...]:
    """The evidence of things: their visible frames, and the place if a name includes it."""
    pieces = []
    for name in names:
        frames = clip.visible(clip.things[name.thing])
        pieces.append(Shown("thing", name.thing, frames))
        if name.place:
            pieces.append(Shown("place", -1, frames))
    return tuple(pieces)


def _colour(clip: Clip, _: Random) -> list[Question]:
    return [
        Question(
            "colour",
            f"what colour is the {name.text} ?",
            clip.things[name.thing].look[0],
            _see(clip, name),
            (name,),
        )
        for name in (*plain_names(clip), *placed_names(clip))
        if name.colour is None
    ]


def _shape(clip: Clip, _: Random) -> list[Question]:
    return [
        Question(
            "shape",
            f"what shape is the {name.text} ?",
            clip.things[name.thing].look[1],
            _see(clip, name),
            (name,),
        )
        for name in (*plain_names(clip), *placed_names(clip))
        if name.shape is None
    ]


def _exists(clip: Clip, rng: Random) -> list[Question]:
    """Yes: a pair that is there. No: one whose colour or shape is there, or one that is in another place.

    Each yes comes with a no of the same form, so that the form gives no answer away.
    """
    questions = []
    there = {look for thing in clip.things for look in thing.looks}
    for i, thing in enumerate(clip.things):
        frames, (colour, shape) = clip.visible(thing), thing.look
        if thing.turn is not None or not frames:
            continue
        seen, text = Shown("thing", i, frames), f"is there a {colour} {shape}"
        near = [(other, shape) for other in COLOURS] + [(colour, other) for other in SHAPES]
        absent = [look for look in near if look not in there]
        if absent:
            other = rng.choice(absent)
            questions.append(Question("exists", f"{text} ?", "yes", (seen,)))
            questions.append(Question("exists", f"is there a {other[0]} {other[1]} ?", "no", ()))
        scene = only_place(clip, thing)
        elsewhere = [s for s in clip.scenes if not may_be_in(clip, thing, s)]
        if scene is not None and elsewhere:
            wrong = rng.choice(elsewhere)
            places = [Shown("place", -1, shown) for shown in (frames, tuple(range(wrong.start, wrong.stop)))]
            for where, answer, place in zip((scene, wrong), ("yes", "no"), places, strict=True):
                question = f"{text} in the {where.place} ?"
                questions.append(Question("exists", question, answer, (seen, place)))
    return questions


def _where(clip: Clip, _: Random) -> list[Question]:
    questions = []
    for name in plain_names(clip):
        thing = clip.things[name.thing]
        (row, column), middle = thing.path[0], SIZE / 2
        if thing.direction is None and min(abs(row - middle), abs(column - middle)) > 6:
            answer = CORNERS[2 * (row > middle) + (column > middle)]
            questions.append(
                Question("where", f"where is the {name.text} ?", answer, _see(clip, name), (name,))
            )
    return questions


def _eighth(clip: Clip, _: Random) -> list[Question]:
    """Temporal grounding: the eighth of the clip that shows a thing, a place's beginning or the light out."""
    n = clip.n_frames
    if n < 8:
        return []

    def of(first: int, stop: int) -> str | None:
        one, other = 8 * first // n, 8 * (stop - 1) // n
        return EIGHTHS[one] if one == other else None

    questions = []
    for name in plain_names(clip):
        thing = clip.things[name.thing]
        answer = of(thing.start, thing.stop)
        if answer:
            text = f"in which eighth is the {name.text} seen ?"
            questions.append(Question("eighth", text, answer, _see(clip, name), (name,)))
    for scene in clip.scenes[1:]:
        answer = of(scene.start, scene.start + scene.fade + 1)
        if answer:
            frames = tuple(range(scene.start - 1, scene.start + scene.fade + 1))
            text = f"in which eighth does the {scene.place} begin ?"
            questions.append(Question("eighth", text, answer, (Shown("place", -1, frames),)))
    if clip.dark is not None and (answer := of(*clip.dark)):
        seen = Shown("place", -1, tuple(range(*clip.dark)))
        questions.append(Question("eighth", "in which eighth is the light out ?", answer, (seen,)))
    return questions


def _first_last(clip: Clip, rng: Random) -> list[Question]:
    """Which of three things, each gone before the next comes, is visible first or last."""
    names = [name for name in plain_names(clip) if name.shape]
    questions = []
    for _ in range(60 if len(names) > 2 else 0):
        chosen = rng.sample(names, 3)
        things = [clip.things[name.thing] for name in chosen]
        if len({name.shape for name in chosen}) < 3:
            continue
        order = sorted(range(3), key=lambda i: things[i].start)
        if all(things[a].stop < things[b].start for a, b in pairwise(order)):
            end = rng.choice(("first", "last"))
            answer = chosen[order[0 if end == "first" else 2]].shape
            one, two, three = (name.text for name in chosen)
            text = f"which is seen {end} , the {one} , the {two} or the {three} ?"
            questions.append(Question("first/last", text, str(answer), _see(clip, *chosen), tuple(chosen)))
        if len(questions) == 12:
            break
    return questions


def _before_after(clip: Clip, rng: Random) -> list[Question]:
    names = plain_names(clip)
    questions = []
    for _ in range(40 if len(names) > 1 else 0):
        one, two = rng.sample(names, 2)
        a, b = clip.things[one.thing], clip.things[two.thing]
        if a.stop < b.start or b.stop < a.start:
            text = f"is the {one.text} before or after the {two.text} ?"
            answer = ORDERS[a.start > b.start]
            questions.append(Question("before/after", text, answer, _see(clip, one, two), (one, two)))
        if len(questions) == 16:
            break
    return questions


def _direction(clip: Clip, _: Random) -> list[Question]:
    return [
        Question("direction", f"which way does the {name.text} move ?", direction, _see(clip, name), (name,))
        for name in plain_names(clip)
        if (direction := clip.things[name.thing].direction) and len(clip.visible(clip.things[name.thing])) > 2
    ]


def _count(clip: Clip, rng: Random) -> list[Question]:
    """How many things of one colour or shape there are, all of them flashes; "one" at most once per clip."""
    questions: list[Question] = []
    looks = [(colour, None) for colour in COLOURS] + [(None, shape) for shape in SHAPES]
    single = False
    for colour, shape in rng.sample(looks, len(looks)):
        members = [i for i, thing in enumerate(clip.things) if fits(thing, colour, shape)]
        things = [clip.things[i] for i in members]
        if not 0 < len(things) <= len(NUMBERS) or (single and len(things) == 1):
            continue
        if all(thing.role == "flash" and clip.visible(thing) for thing in things):
            single |= len(things) == 1
            text = f"how many {colour or shape} things are there ?"
            seen = tuple(Shown("thing", i, clip.visible(clip.things[i])) for i in members)
            names = tuple(Name(i, colour, shape) for i in members)
            questions.append(Question("count", text, NUMBERS[len(things) - 1], seen, names))
    return questions


def _place(clip: Clip, _: Random) -> list[Question]:
    questions = []
    for name in plain_names(clip):
        scene = only_place(clip, clip.things[name.thing])
        if scene is not None:
            frames = clip.visible(clip.things[name.thing])
            seen = (*_see(clip, name), Shown("place", -1, frames))
            text = f"which place is behind the {name.text} ?"
            questions.append(Question("place", text, scene.place, seen, (name,)))
    for a, b in pairwise(clip.scenes):
        seen = tuple(Shown("place", -1, tuple(range(s.start, s.stop))) for s in (a, b))
        questions.append(Question("place", f"which place comes right after the {a.place} ?", b.place, seen))
        questions.append(Question("place", f"which place comes right before the {b.place} ?", a.place, seen))
    for end, scene in (("first", clip.scenes[0]), ("last", clip.scenes[-1])):
        whole = Shown("place", -1, tuple(range(scene.start, scene.stop)))
        questions.append(Question("place", f"which place is seen {end} ?", scene.place, (whole,)))
    return questions


def _change(clip: Clip, _: Random) -> list[Question]:
    """Which colour a thing turns, or which shape it becomes."""
    questions = []
    for i, thing in enumerate(clip.things):
        if thing.turn is None:
            continue
        at, (colour, shape) = thing.turn
        frames = clip.visible(thing)
        if not any(t < at for t in frames) or not any(t >= at for t in frames):
            continue
        what, verb, answer = (
            ("colour", "turn", colour) if colour != thing.look[0] else ("shape", "become", shape)
        )
        text = f"what {what} does the {thing.look[0]} {thing.look[1]} {verb} ?"
        seen = Shown("thing", i, tuple(t for t in frames if t >= at - 1))
        questions.append(Question("change", text, answer, (seen,), (Name(i, *thing.look),)))
    return questions


def _detail(clip: Clip, _: Random) -> list[Question]:
    """The colour of the dot on a thing: one visual token for one or two frames."""
    questions = []
    for name in plain_names(clip):
        thing = clip.things[name.thing]
        if thing.dot is not None:
            colour, (start, stop) = thing.dot
            frames = tuple(t for t in clip.visible(thing) if start <= t < stop)
            if frames:
                text = f"what colour is the dot on the {name.text} ?"
                questions.append(
                    Question("detail", text, colour, (Shown("dot", name.thing, frames),), (name,))
                )
    return questions


QUESTION_TYPES: dict[str, Callable[[Clip, Random], list[Question]]] = {
    "colour": _colour,
    "shape": _shape,
    "exists": _exists,
    "where": _where,
    "eighth": _eighth,
    "first/last": _first_last,
    "before/after": _before_after,
    "direction": _direction,
    "count": _count,
    "place": _place,
    "change": _change,
    "detail": _detail,
}
"""Question type -> the questions of that type that a clip answers without doubt."""

ANSWERS: dict[str, tuple[str, ...]] = {
    "colour": tuple(COLOURS),
    "shape": SHAPES,
    "exists": ("yes", "no"),
    "where": CORNERS,
    "eighth": EIGHTHS,
    "first/last": SHAPES,
    "before/after": ORDERS,
    "direction": tuple(DIRECTIONS),
    "count": NUMBERS,
    "place": PLACES,
    "change": (*COLOURS, *SHAPES),
    "detail": tuple(COLOURS),
}
"""Question type -> its answers."""

CHANCE: dict[str, float] = {
    kind: {"first/last": 1 / 3, "change": 1 / 7, "detail": 1 / 7}.get(kind, 1 / len(answers))
    for kind, answers in ANSWERS.items()
}
"""Question type -> accuracy of guessing among the answers that the question leaves open."""
