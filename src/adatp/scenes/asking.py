"""Draws questions on clips of the second world: many per clip for training, balanced ones for measuring."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from random import Random

from .clips import Clip, make_clip
from .evidence import Question
from .questions import ANSWERS, QUESTION_TYPES


def questions(clip: Clip, kind: str) -> list[Question]:
    """Every question of a type that a clip answers; a sample for "first/last", "before/after" and
    "exists".
    """
    return QUESTION_TYPES[kind](clip, Random(f"{kind} {clip.key}"))


def ask(clip: Clip, seed: int, n: int, weights: Mapping[str, float] | None = None) -> list[Question]:
    """Draw up to n different questions on a clip: a type first, then an answer, then a question that has it.

    Types and answers are drawn evenly among those that the clip allows, so that frequent ones do not
    dominate. With `weights`, a type that has one is drawn that many times as often.
    """
    rng = Random(f"ask {seed} {clip.key}")
    pool: dict[str, dict[str, list[Question]]] = {}
    for kind in QUESTION_TYPES:
        for question in questions(clip, kind):
            pool.setdefault(kind, {}).setdefault(question.answer, []).append(question)
    drawn: list[Question] = []
    while pool and len(drawn) < n:
        kinds = sorted(pool)
        kind = rng.choices(kinds, [(weights or {}).get(kind, 1.0) for kind in kinds])[0]
        answer = rng.choice(sorted(pool[kind]))
        bucket = pool[kind][answer]
        drawn.append(bucket.pop(rng.randrange(len(bucket))))
        if not bucket:
            del pool[kind][answer]
            if not pool[kind]:
                del pool[kind]
    return drawn


def benchmark(split: str, n_frames: int, n: int) -> Iterator[tuple[int, Question]]:
    """Balanced questions of a split, one per clip: types take turns, and so do the answers of a type.

    Args:
        split: One of `SPLITS`.
        n_frames: F of every clip, at least 12.
        n: Number of questions.

    Yields:
        (seed, question): the clip is `make_clip(seed, n_frames, split)`.

    Raises:
        ValueError: If the split is unknown, or such short clips can't hold every question type.
    """
    if n_frames < 12:
        raise ValueError(
            f"clips of {n_frames} frames are too short for every question type: ask for 12 or more"
        )
    kinds, turns, seed = list(QUESTION_TYPES), dict.fromkeys(QUESTION_TYPES, 0), 0
    for i in range(n):
        kind = kinds[i % len(kinds)]
        wanted = ANSWERS[kind][turns[kind] % len(ANSWERS[kind])]
        turns[kind] += 1
        while True:
            clip = make_clip(seed, n_frames, split)
            seed += 1
            fitting = [question for question in questions(clip, kind) if question.answer == wanted]
            if fitting:
                yield seed - 1, Random(f"pick {clip.key}").choice(fitting)
                break
