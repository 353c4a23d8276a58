"""Saved checkpoints of the families in ``more_families``, each with its processor, asked by a session."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from adatp import AdaTP, Session
from families import build
from more_families import MORE
from more_processors import PROCESSORS, SIZE
from prompts import frames

pytestmark = pytest.mark.filterwarnings("ignore:__array_wrap__")  # MiniCPM's processor gives numpy tensors


@pytest.mark.parametrize(
    "family", [family for family in MORE if family in PROCESSORS], ids=lambda family: family.name
)
def test_a_session_loads_and_prunes_it(family: Any, tmp_path: Path) -> None:
    build(family).save_pretrained(tmp_path)
    PROCESSORS[family]().save_pretrained(tmp_path)
    session = Session(tmp_path)
    if "omni_" in family.name:  # this setting is not saved with a processor
        session.processor.videos_kwargs = {"size": SIZE}
    method, given = AdaTP(flops=0.8), {"max_new_tokens": 3}
    videos = [frames(4, 16, 24), frames(4, 16, 24, seed=1)]
    prompts = [session.prepare(video, "which dog runs ?") for video in videos]
    prompts.append(session.prepare(videos[0], "what is the red ball ?"))
    for prompt, answer in zip(prompts, session.answer_batch(prompts, method, **given), strict=True):
        alone = session.answer(prompt, method, **given)
        assert alone.report.visual_tokens[-1][0] < alone.report.prompt_visual_tokens[0]
        assert alone.token_ids == answer.token_ids
        assert alone.flops_ratio == answer.flops_ratio < 1
