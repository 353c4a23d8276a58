"""These tests need lmms-eval, in an environment of its own: `make lmms-eval` makes it and runs them."""

from __future__ import annotations

from collections.abc import Iterator
from importlib.util import find_spec

import pytest
from checkpoints import Checkpoints

if find_spec("lmms_eval") is None:
    collect_ignore_glob = ["test_*.py"]


@pytest.fixture(scope="session")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> Checkpoints:
    """The models that are asked."""
    return Checkpoints(tmp_path_factory.mktemp("checkpoints"))


@pytest.fixture
def pyav_for_files(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """transformers' processors read files with PyAV: the usual torchcodec needs FFmpeg's libraries."""
    from transformers import video_processing_utils as reading

    load = reading.load_video
    monkeypatch.setattr(reading, "is_torchcodec_usable", lambda **_: True)
    monkeypatch.setattr(
        reading, "load_video", lambda video, backend, **given: load(video, backend="pyav", **given)
    )
    return


@pytest.fixture(autouse=True)
def quiet_libraries() -> Iterator[None]:
    """Warnings of lmms-eval and of what it imports are theirs, not errors of ours."""
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
