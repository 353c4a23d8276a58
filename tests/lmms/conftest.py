"""These tests need lmms-eval, in an environment of its own: `make lmms-eval` makes it and runs them."""

from __future__ import annotations

from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import pytest

if find_spec("lmms_eval") is None:
    collect_ignore_glob = ["test_*.py"]


@pytest.fixture(scope="session")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random model of every family with its processor, in folders named after the families.

    Their dtypes are those that lmms-eval loads them in. The templates take texts as well as parts, as those
    of real checkpoints do.
    """
    import torch

    from families import FAMILIES, build
    from processors import PROCESSORS

    folder = tmp_path_factory.mktemp("checkpoints")
    for family in FAMILIES:
        model, processor = build(family), PROCESSORS[family]()
        if family.name != "llava_onevision":
            model = model.to(torch.bfloat16)
        if processor.chat_template is not None:
            processor.chat_template = _taking_texts(processor.chat_template)
        model.save_pretrained(folder / family.name)
        processor.save_pretrained(folder / family.name)
    return folder


def _taking_texts(template: str) -> str:
    parts, end = "{% for part in message['content'] %}", "{% endfor %}<|im_end|>"
    text = "{% if message['content'] is string %}{{ message['content'] }}{% else %}"
    return template.replace(parts, text + parts).replace(end, end.replace("<", "{% endif %}<", 1))


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
