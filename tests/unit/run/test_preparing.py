"""Prompts of one video are those of a session, and the processor scales its frames once."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from adatp import Session
from adatp.run.preparing import Unit, _remembered, prepare
from adatp.run.rows import Row, Settings
from clips import write_clip
from families import FAMILIES

QUESTIONS = ("what is the cat ?", "who runs first in the red ball ?", "")


@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.name)
def test_a_processor_scales_the_frames_of_a_video_once(
    family: Any, hub: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    session = Session(hub / family.name, device="cpu")
    clip = write_clip(tmp_path / "clip.mp4", 8)
    how = Settings(method="vanilla", frames=4, max_new_tokens=2)
    rows = tuple(Row(n, n, str(clip), question, how) for n, question in enumerate(QUESTIONS))
    expected = [session.prepare(clip, question, frames=4) for question in QUESTIONS[:2]]
    calls = []
    for part in ("video_processor", "image_processor"):
        if (reader := getattr(session.processor, part, None)) is not None and hasattr(reader, "preprocess"):
            scale = type(reader)._preprocess

            def counted(self: Any, *args: Any, scale: Any = scale, **kwargs: Any) -> Any:
                calls.append(self)
                return scale(self, *args, **kwargs)

            monkeypatch.setattr(type(reader), "_preprocess", counted)
    found = prepare(session.processor, session.config, Unit(str(clip), 4, rows))
    assert len(calls) == 1
    assert found[2] == "the question is empty"
    for mine, theirs in zip(found, expected, strict=False):
        assert not isinstance(mine, str)
        assert mine.text == theirs.text
        assert mine.videos == ()
        assert mine.inputs.keys() == theirs.inputs.keys()
        assert all(torch.equal(mine.inputs[name], value) for name, value in theirs.inputs.items())
    assert not any("preprocess" in vars(each) for each in calls)


def test_only_the_same_frames_with_the_same_options_are_not_scaled_again() -> None:
    calls = []

    def scale(media: list[np.ndarray], **options: int) -> dict[str, int]:
        calls.append(options)
        return {"sum": int(media[0].sum())}

    again, frames = _remembered(scale), np.ones((2, 3), np.uint8)
    assert again([frames], size=1) == again([frames[:]], size=1) == {"sum": 6}
    assert len(calls) == 1
    assert again([frames[:1]], size=1) == {"sum": 3}
    assert again([frames + 1], size=1) == {"sum": 12}
    assert again([frames + 1], size=2) == {"sum": 12}
    assert len(calls) == 4
