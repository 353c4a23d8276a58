"""Clips to start with."""

from __future__ import annotations

import shutil
from pathlib import Path

from adatp.tiny import CLIP, QUESTION

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
        from adatp.tiny.export import write_clip
        from adatp.tiny.world import QUESTION_TYPES, benchmark, make_clip

        frames = 16
        for seed, question in benchmark("test", frames, len(QUESTION_TYPES)):
            if question.kind in KINDS:
                path = folder / f"test-{seed}.mp4"
                write_clip(path, make_clip(seed, frames, "test").frames)
                examples.append((path, question.text))
    return examples
