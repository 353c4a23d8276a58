"""The files that hostile calls are made on: made once, and unchanged by every call."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from adatp.tiny import CLIP
from damage import copy_once


@pytest.fixture(scope="session")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A clip, a folder of clips, questions, the embedded model, and one of the hub's kind."""
    from families import LlavaOnevision, build
    from processors import PROCESSORS

    folder = tmp_path_factory.mktemp("world")
    shutil.copy(CLIP, folder / "clip.mp4")
    (folder / "videos").mkdir()
    for name in ("a.mp4", "b.mp4"):
        shutil.copy(CLIP, folder / "videos" / name)
    (folder / "questions.txt").write_text("what colour is the star ?\n")
    copy_once(folder / "model")
    build(LlavaOnevision).save_pretrained(folder / "hub")
    PROCESSORS[LlavaOnevision]().save_pretrained(folder / "hub")
    return folder
