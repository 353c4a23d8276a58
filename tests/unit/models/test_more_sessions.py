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
    answer = session.ask(frames(8, 32, 48), "what is the red ball ?", AdaTP(flops=0.8), max_new_tokens=3)
    assert answer.report.visual_tokens[-1][0] < answer.report.prompt_visual_tokens[0]
    assert answer.flops_ratio < 1
