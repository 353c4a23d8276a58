"""Position bias on real language weights: SmolLM2 after the embedded model's tower, projector untrained."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

import smollm2
from adatp import Session
from adatp.bias import measure
from adatp.tiny.world import make_clip
from adatp.video import Video

FRAMES = 32


@pytest.fixture(scope="module")
def grafted(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Session]:
    """Model and processor as `adatp bias --model` loads them."""
    try:
        gguf = smollm2.find_gguf(smollm2.PACKAGE)
    except FileNotFoundError as error:
        if os.environ.get("CI"):
            raise
        pytest.skip(str(error))
    folder = tmp_path_factory.mktemp("smollm2") / "checkpoint"
    smollm2.write(folder, gguf, scale=1.0)
    yield Session(folder)
    shutil.rmtree(folder)  # half a gigabyte


@pytest.mark.slow
def test_the_decoder_is_a_language_model(grafted: Session) -> None:
    model, processor = grafted.model, grafted.processor
    ids = processor.tokenizer("The capital of France is", return_tensors="pt")["input_ids"]
    assert processor.decode(model(input_ids=ids).logits[0, -1].argmax()) == " Paris"


@pytest.mark.slow
def test_visual_tokens_are_as_long_as_words(grafted: Session) -> None:
    model = grafted.model
    words = model.get_input_embeddings().weight.norm(dim=1).mean()
    torch.testing.assert_close(smollm2.visual_tokens(model).norm(dim=1).mean(), words, rtol=0.1, atol=0)


def in_the_last_4(session: Session, *, black: bool = False) -> list[float]:
    """By layer, share of the top-10 % tokens in the last 4 of equal frames: content plays no role."""
    image = make_clip(0, FRAMES, "validation").frames[:1] * (not black)
    clip = Video(image.repeat(FRAMES, axis=0), np.arange(FRAMES) / 2, FRAMES / 2, 2.0)
    found = measure(session, [(clip, "what colour is the star ?")], controls=())
    return [sum(row["top10_by_frame"][-4:]) for row in found["layers"]]


@pytest.mark.slow
@pytest.mark.parametrize("black", [False, True])
def test_position_alone_decides_where_attention_goes(grafted: Session, black: bool) -> None:
    share = in_the_last_4(grafted, black=black)  # 4 / 32 in every layer without bias
    assert share[1] > 0.7
    assert sum(share) / len(share) > 0.35


@pytest.mark.slow
def test_it_takes_what_was_learned(grafted: Session) -> None:
    """The same numbers in another order lean to either end, layer by layer, but not all to one."""
    layers = grafted.model.get_decoder().layers
    kept = {name: weight.clone() for name, weight in layers.state_dict().items()}
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for weight in layers.parameters():
            weight.copy_(
                weight.flatten()[torch.randperm(weight.numel(), generator=generator)].view_as(weight)
            )
    try:
        share = in_the_last_4(grafted)
    finally:
        layers.load_state_dict(kept)
    assert sum(share) / len(share) < 0.25


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
