"""The decoder stage's data: a curriculum of growing clips, and batches of clips with their questions."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch

from adatp.tiny.processor import pixel_values
from adatp.tiny.world import Question, ask, make_clip
from training.labels import cell_labels, counted, frame_things, motion_labels, named_times


@dataclass(frozen=True)
class Phase:
    """A part of the decoder's curriculum.

    Attributes:
        until: Share of the stage's time at which it ends.
        frames: Frames of a clip.
        clips: Clips a step.
        questions: Questions a clip.
    """

    until: float
    frames: int
    clips: int
    questions: int


CURRICULUM = (
    Phase(0.05, 2, 24, 8),
    Phase(0.15, 4, 16, 14),
    Phase(0.35, 8, 12, 20),
    Phase(0.75, 16, 8, 26),
    Phase(1.00, 32, 4, 32),
)
REHEARSAL = 0.25
"""Share of the steps of a phase that use an earlier phase's clips, so that binding does not fade."""

FULL = 0.25
"""Share of the steps in which the decoder reads every visual token. In the others most of those that show
nothing are left out, for several times the clips in the time."""

HARD = {"first/last": 2.0, "count": 5.0, "before/after": 1.5}
"""Question types that are asked more often, as they are learned last."""


@dataclass
class ClipBatch:
    """Clips with their questions.

    Attributes:
        pixels: (B, F, 3, 96, 96).
        questions: B lists.
        motion: (B, F * 36), `motion_labels`.
        shows: bool (B, F * 36), whether a visual token shows or grazes a thing.
        named: B lists of a list a question, `named_times`.
        members: B lists of `counted` of each question.
    """

    pixels: torch.Tensor
    questions: list[list[Question]]
    motion: torch.Tensor
    shows: torch.Tensor
    named: list[list[list[tuple[int, float]]]]
    members: list[list[tuple[int, list[float]] | None]]


def clip_batch(seed: int, phase: Phase) -> ClipBatch:
    """Clips of a phase with their questions."""
    seeds = range(seed * phase.clips, (seed + 1) * phase.clips)
    clips = [make_clip(s, phase.frames) for s in seeds]
    pixels = torch.stack([pixel_values(clip.frames) for clip in clips])
    shows = [[cell_labels(frame_things(clip, t))[0] != 0 for t in range(phase.frames)] for clip in clips]
    questions = [ask(clip, seed, phase.questions, HARD) for clip, seed in zip(clips, seeds, strict=True)]
    return ClipBatch(
        pixels,
        questions,
        torch.from_numpy(np.stack([motion_labels(clip).reshape(-1) for clip in clips])),
        torch.from_numpy(np.array(shows).reshape(phase.clips, -1)),
        [[named_times(clip, q) for q in asked] for clip, asked in zip(clips, questions, strict=True)],
        [[counted(clip, q) for q in asked] for clip, asked in zip(clips, questions, strict=True)],
    )


def thin(shows: torch.Tensor, share: float, generator: torch.Generator) -> torch.Tensor:
    """Visual tokens to go on with: those that show things, and random ones of the rest, equally many a clip.

    Args:
        shows: bool (B, N).
        share: Of all N tokens, how many to keep at least.
        generator: Draws them.

    Returns:
        int64 (B, n), ascending.
    """
    n = max(int(shows.sum(1).max()), math.ceil(share * shows.shape[1]))
    order = torch.rand(shows.shape, generator=generator) + shows.cpu()
    return order.topk(n, dim=1).indices.sort(dim=1).values.to(shows.device)
