"""Small clips of many kinds, written once a session."""

import os
from pathlib import Path

import pytest

from clips import CLIPS, FRAMES, write_clip


@pytest.fixture(scope="session")
def clips(tmp_path_factory) -> Path:
    os.environ.setdefault("SVT_LOG", "1")  # the AV1 encoder's: errors alone
    folder = tmp_path_factory.mktemp("clips")
    for name, options in CLIPS.items():
        write_clip(folder / name, FRAMES, **options)
    return folder


@pytest.fixture
def no_decoding_through(monkeypatch):
    monkeypatch.setattr("adatp.video.reading.by_decoding", None)
