"""Videos of one frame, and long and narrow frames: an answer or one clear line, of every family."""

from __future__ import annotations

import re
import warnings
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from adatp import AdaTP, PromptError, Session
from adatp.methods import Vanilla
from families import FAMILIES, Gemma3, Glm4v, Glm46V, InternVL, Qwen3VL, SmolVLM, build
from processors import PROCESSORS
from running import Run

VIDEOS = Path(__file__).parents[1] / "data" / "videos"
ONE, WIDE = VIDEOS / "one_frame.mp4", VIDEOS / "wide_2000x8.mkv"
QUESTION = "what is the cat ?"
SHORT = "this model takes videos of 2 frames or more, and this one has 1: the last is shown again"

families = pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.name)


@cache
def session_of(family: Any) -> Session:
    return Session.of(build(family), PROCESSORS[family]())


@families
def test_a_video_of_one_frame_is_answered(family: Any) -> None:
    session = session_of(family)
    takes_one = family.name not in REPEATED
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        prompt = session.prepare(ONE, QUESTION)
    said = [str(each.message) for each in caught if each.category is UserWarning]
    assert said == ([] if takes_one else [SHORT])
    [video] = prompt.videos
    assert len(video.frames) == len(video.timestamps) == (1 if takes_one else 2)
    assert (video.frames == video.frames[0]).all()
    method = AdaTP(flops=0.9)
    answer = session.answer(prompt, method, max_new_tokens=3)
    assert 0 < answer.report.flops_ratio <= 0.9
    complete = session.answer(prompt, Vanilla(), max_new_tokens=3)
    [grid] = complete.layout.grids
    assert grid[0] == len(video.frames) / (1 if takes_one else family.step)


# Qwen2-VL and Qwen2.5-VL repeat frames themselves.
REPEATED = {
    family.name
    for family in FAMILIES
    if issubclass(family, Qwen3VL | Glm4v | Glm46V | InternVL | SmolVLM | Gemma3)
}


@families
@pytest.mark.parametrize("size", [(8, 2000), (2000, 8), (1, 1), (2, 3), (1, 300)], ids="{0[0]}x{0[1]}".format)
def test_frames_of_any_size_are_answered_or_refused_for_it(family: Any, size: tuple[int, int]) -> None:
    session = session_of(family)
    frames = np.random.default_rng(0).integers(0, 256, (4, *size, 3), dtype=np.uint8)
    long = "frames of {1} x {0} pixels are too long and narrow for this model (.*)".format(*size)
    refused: PromptError | None = None
    try:
        prompt = session.prepare(frames, QUESTION)
    except PromptError as error:
        refused = error
    if refused is None:
        assert session.answer(prompt, AdaTP(flops=0.9), max_new_tokens=2).report.flops_ratio <= 0.9
    else:
        assert re.fullmatch(long, str(refused))
        assert max(size) > 50 * min(size)


def test_the_command_says_it_in_one_line(run: Run, hub: Path) -> None:
    how = ("--model", hub / Qwen3VL.name, "--max-new-tokens", 2)
    code, out, err = run("ask", ONE, QUESTION, *how)
    assert (code, err) == (0, f"adatp: warning: {SHORT}\n")
    assert "2 frames" in out
    code, out, err = run("ask", WIDE, QUESTION, *how)
    assert (code, out) == (2, "")
    assert re.fullmatch(r"adatp: frames of 2000 x 8 pixels are too long and narrow for this model .*\n", err)
