"""Position bias on real language weights: SmolLM2 behind the embedded model's tower, projector untrained."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import smollm2
from adatp import ask
from adatp.bias import measure
from adatp.tiny.world import make_clip
from adatp.video import Video

FRAMES = 32


@pytest.fixture(scope="module")
def grafted(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Any, Any]]:
    """Model and processor as `adatp bias --model` loads them."""
    try:
        gguf = smollm2.find_gguf(smollm2.PACKAGE)
    except FileNotFoundError as error:
        if os.environ.get("CI"):
            raise
        pytest.skip(str(error))
    folder = tmp_path_factory.mktemp("smollm2") / "checkpoint"
    smollm2.write(folder, gguf, scale=1.0)
    yield ask.load_model(str(folder)), ask.load_processor(str(folder))
    shutil.rmtree(folder)  # half a gigabyte


@pytest.mark.slow
def test_the_decoder_is_a_language_model(grafted: tuple[Any, Any]) -> None:
    model, processor = grafted
    ids = processor.tokenizer("The capital of France is", return_tensors="pt")["input_ids"]
    assert processor.decode(model(input_ids=ids).logits[0, -1].argmax()) == " Paris"


@pytest.mark.slow
def test_visual_tokens_are_as_long_as_words(grafted: tuple[Any, Any]) -> None:
    model, _ = grafted
    words = model.get_input_embeddings().weight.norm(dim=1).mean()
    torch.testing.assert_close(smollm2.visual_tokens(model).norm(dim=1).mean(), words, rtol=0.1, atol=0)


@pytest.mark.slow
@pytest.mark.parametrize("shown", ["still", "black"])
def test_position_alone_decides_where_attention_goes(grafted: tuple[Any, Any], shown: str) -> None:
    """All frames are alike, so that content has no say. Without bias every frame would receive as much."""
    model, processor = grafted
    picture = make_clip(0, FRAMES, "validation").frames[:1] * (shown == "still")
    clip = Video(picture.repeat(FRAMES, axis=0), np.arange(FRAMES) / 2, FRAMES / 2, 2.0)
    found = measure(model, processor, [(clip, "what colour is the star ?")], layers=[1, 26], controls=())
    early, late = found["layers"]

    assert sum(early["top10_by_frame"][-4:]) > 0.7  # 4 / 32 without bias

    mass = np.array(late["mass_by_frame"])
    first, middle, last = mass[0], mass[8:24].mean(), mass[-4:].mean()
    assert first > 2 * middle
    assert last > 2 * middle


@pytest.mark.parametrize(("there", "said"), [(True, "is there already"), (False, "no .gguf file in")])
def test_bad_input_is_one_line(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    there: bool,
    said: str,
) -> None:
    out = tmp_path if there else tmp_path / "new"
    monkeypatch.setattr(sys, "argv", ["smollm2.py", str(out), "--gguf", str(tmp_path)])
    with pytest.raises(SystemExit) as exit_:
        smollm2.main()
    printed = capsys.readouterr()
    assert exit_.value.code == 2
    assert said in printed.err
    assert printed.err.count("\n") == 1
    assert printed.out == ""
    assert not (tmp_path / "new").exists()
