"""Writes example clips and questions for the page."""

from __future__ import annotations

import shutil
from pathlib import Path

from adatp.demo.mp4 import write_mp4
from adatp.tiny import CLIP, QUESTION
from adatp.tiny.world import QUESTION_TYPES, benchmark, make_clip

KINDS = ("shape", "first/last", "direction", "where", "when")
"""Types of question, one example of each."""


def write_examples(folder: Path, embedded: bool) -> list[tuple[Path, str]]:
    """Write clips into a folder, each with a question.

    Args:
        folder: an existing folder.
        embedded: whether the embedded model answers. If so, the first test clips of its world are included,
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
