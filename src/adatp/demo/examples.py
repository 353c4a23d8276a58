"""Clips to start with."""

from __future__ import annotations

import shutil
from pathlib import Path

from adatp.demo.mp4 import write_mp4
from adatp.tiny import CLIP, QUESTION
from adatp.tiny.world import QUESTION_TYPES, benchmark, make_clip

KINDS = ("shape", "first/last", "direction", "where", "when")
"""Types of question that examples are made of, one each."""


def write_examples(folder: Path, embedded: bool) -> list[tuple[Path, str]]:
    """Write clips with a question each into a folder.

    Args:
        folder: which exists.
        embedded: whether the embedded model answers: then the first test clips of its world are among them,
            whether it answers them right or not.
    """
    shipped = folder / CLIP.name
    shutil.copy(CLIP, shipped)
    examples = [(shipped, QUESTION)]
    if embedded:
        frames = 16
        for seed, question in benchmark("test", frames, len(QUESTION_TYPES)):
            if question.kind in KINDS:
                path = folder / f"test-{seed}.mp4"
                write_mp4(path, make_clip(seed, frames, "test").frames)
                examples.append((path, question.text))
    return examples
