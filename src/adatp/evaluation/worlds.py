"""The synthetic worlds of questions for an evaluation, each with the embedded model that knows it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from adatp import scenes
from adatp.tiny import TinyProcessor, world

THIRDS = world.THIRDS
"""The parts of a clip that evidence can be in."""


@dataclass(frozen=True)
class World:
    """Clips with questions, generated from a seed.

    Clips have ``frames`` (F, 96, 96, 3) uint8 and ``n_frames``; questions ``kind``, ``text``, ``answer``.

    Attributes:
        name: also the name of the embedded model that knows it (`adatp.tiny.EMBEDDED`).
        words: every word of its questions and answers.
        benchmark: (split, number of frames, number of questions) -> (seed, question), balanced. It raises
            `ValueError` if there is no such split, or the clips would be too short or too long.
        make_clip: (seed, number of frames, split) -> the clip.
        shown: (clip, question) -> bool (F,), the frames that hold the evidence.
    """

    name: str
    words: Callable[[], list[str]]
    benchmark: Callable[[str, int, int], Iterator[tuple[int, Any]]]
    make_clip: Callable[[int, int, str], Any]
    shown: Callable[[Any, Any], NDArray[np.bool_]]

    def third_of(self, clip: Any, question: Any) -> str | None:
        """The third of the clip that holds all the evidence; None if several do, or there is none."""
        frames = np.flatnonzero(self.shown(clip, question))
        thirds = {3 * int(frame) // clip.n_frames for frame in frames}
        return THIRDS[thirds.pop()] if len(thirds) == 1 else None


def _tiny_shown(clip: Any, question: Any) -> NDArray[np.bool_]:
    return np.asarray(world.evidence(clip, question.about))


def _scenes_shown(clip: Any, question: Any) -> NDArray[np.bool_]:
    return np.asarray(scenes.evidence(clip, question).any(1))


WORLDS: dict[str, World] = {
    each.name: each
    for each in (
        World("tiny", world.words, world.benchmark, world.make_clip, _tiny_shown),
        World("scenes", scenes.words, scenes.benchmark, scenes.make_clip, _scenes_shown),
    )
}
"""Name -> world, in the order of the embedded models."""

TINY = WORLDS["tiny"]


def lacks_words(processor: Any, of: World) -> list[str]:
    """Words of a world that an embedded model's tokenizer lacks. For other models, the list is empty."""
    if not isinstance(processor, TinyProcessor):
        return []
    known = processor.tokenizer.get_vocab()
    return [word for word in of.words() if word not in known]


def world_of(processor: Any) -> World:
    """The world that a model knows, by its processor. For models that are not embedded, the first one."""
    return next((each for each in WORLDS.values() if not lacks_words(processor, each)), TINY)
