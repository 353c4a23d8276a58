"""Draws questions: several on one clip for training, or a balanced benchmark with one question per clip."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np

from .clip import Clip
from .making import make_clip
from .questions import ANSWERS, QUESTION_TYPES, Question


def ask(clip: Clip, seed: int, n: int, weights: Mapping[str, float] | None = None) -> list[Question]:
    """Draw up to n different questions on a clip: a type first, then an answer, then a question that has it.

    Types and answers are drawn evenly among those that the clip allows, so that frequent ones do not
    dominate. With `weights`, a type that has one is drawn that many times as often.
    """
    rng = np.random.default_rng(seed)
    pool: dict[str, dict[str, list[Question]]] = {}
    for kind, make in QUESTION_TYPES.items():
        for question in make(clip):
            pool.setdefault(kind, {}).setdefault(question.answer, []).append(question)
    drawn: list[Question] = []
    while pool and len(drawn) < n:
        kinds = sorted(pool)
        share = np.array([(weights or {}).get(kind, 1.0) for kind in kinds])
        kind = str(rng.choice(kinds, p=share / share.sum()))
        answer = str(rng.choice(sorted(pool[kind])))
        bucket = pool[kind][answer]
        drawn.append(bucket.pop(int(rng.integers(len(bucket)))))
        if not bucket:
            del pool[kind][answer]
            if not pool[kind]:
                del pool[kind]
    return drawn


def benchmark(split: str, n_frames: int, n: int) -> Iterator[tuple[int, Question]]:
    """Balanced questions of a split, one per clip: types take turns, and so do the answers of a type.

    Args:
        split: One of `SPLITS`.
        n_frames: F of every clip.
        n: Number of questions.

    Yields:
        (seed, question): the clip is `make_clip(seed, n_frames, split)`.

    Raises:
        ValueError: If the split is unknown, or such short clips can't hold every question type.
    """
    if n_frames < 4:
        raise ValueError(
            f"clips of {n_frames} frames are too short to tell early from late: ask for 4 or more"
        )
    kinds, turns, seed = list(QUESTION_TYPES), dict.fromkeys(QUESTION_TYPES, 0), 0
    for i in range(n):
        kind = kinds[i % len(kinds)]
        wanted = ANSWERS[kind][turns[kind] % len(ANSWERS[kind])]
        turns[kind] += 1
        while True:
            clip = make_clip(seed, n_frames, split)
            seed += 1
            fitting = [question for question in QUESTION_TYPES[kind](clip) if question.answer == wanted]
            if fitting:
                yield seed - 1, fitting[seed % len(fitting)]
                break
