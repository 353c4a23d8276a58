"""The second world: procedural films with backgrounds that matter, and questions on them."""

from __future__ import annotations

from .asking import ask, benchmark, questions
from .clips import Clip, Scene, Thing, make_clip
from .disturb import DISTURBANCES, disturb
from .evidence import Question, evidence
from .questions import ANSWERS, CHANCE, QUESTION_TYPES
from .vocabulary import SPLITS, words

__all__ = [
    "ANSWERS",
    "CHANCE",
    "DISTURBANCES",
    "QUESTION_TYPES",
    "SPLITS",
    "Clip",
    "Question",
    "Scene",
    "Thing",
    "ask",
    "benchmark",
    "disturb",
    "evidence",
    "make_clip",
    "questions",
    "words",
]
