"""The embedded model's world: synthetic clips with questions, from a seed (ours, not the paper's).

A clip is a film of moving, textured, coloured shapes. Its scenes have their own backgrounds and are joined by
hard cuts or soft changes. *Residents* stay, still or moving, for a complete scene. *Movers* cross the frame
in a few frames. Small *flashes* last one or two frames anywhere. Distractors share a colour or a shape with
something else. Most questions depend on a few tokens of a few frames, so it matters which tokens a pruning
method drops. Everything that a question needs is in the metadata (`Clip.things`), so an answer is computed
from it, not from pixels.

- `vocabulary`: names of colours, shapes and answers; every word of the world.
- `clip`, `drawing`, `making`: what a clip holds, how it is drawn, how it is made from a seed.
- `questions`, `asking`: the types of questions; questions drawn for training, or as a benchmark.
"""

from .asking import ask, benchmark
from .clip import Clip, Description, Thing, evidence, matches
from .drawing import SIZE
from .making import SPLITS, TRAVEL, make_clip, make_crowd
from .questions import ANSWERS, QUESTION_TYPES, Question
from .vocabulary import (
    COLOURS,
    CORNERS,
    DIRECTIONS,
    HALVES,
    NUMBERS,
    ORDERS,
    SHAPES,
    THIRDS,
    words,
)

__all__ = [
    "ANSWERS",
    "COLOURS",
    "CORNERS",
    "DIRECTIONS",
    "HALVES",
    "NUMBERS",
    "ORDERS",
    "QUESTION_TYPES",
    "SHAPES",
    "SIZE",
    "SPLITS",
    "THIRDS",
    "TRAVEL",
    "Clip",
    "Description",
    "Question",
    "Thing",
    "ask",
    "benchmark",
    "evidence",
    "make_clip",
    "make_crowd",
    "matches",
    "words",
]
