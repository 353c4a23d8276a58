"""Frames are kept as they are, and scaled down where they would take more memory than is held."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from adatp import PromptError, Session
from adatp.session import fitting
from adatp.session.fitting import MOST_PIXELS, fit_for
from adatp.tiny import CLIP, QUESTION
from adatp.tiny.processor import pixel_values
from adatp.video import read_video
from clips import write_clip


@pytest.fixture(scope="module")
def session() -> Session:
    return Session(device="cpu")


def processor_of(**size: int | None) -> Any:
    edges = {"height": None, "width": None, "shortest_edge": None, "longest_edge": None, **size}
    return SimpleNamespace(video_processor=SimpleNamespace(size=SimpleNamespace(**edges)))


@pytest.mark.parametrize(
    ("frames", "height", "width"),
    [(32, 1080, 1920), (64, 1080, 1920), (64, 1920, 1080), (16, 2160, 3840), (1, 8192, 8192), (113, 96, 96)],
)
def test_usual_clips_are_kept_as_they_are(session: Session, frames: int, height: int, width: int) -> None:
    assert fit_for(session.processor, session.config)(frames, height, width) == (height, width)


@pytest.mark.parametrize(
    ("frames", "height", "width"), [(64, 2160, 3840), (64, 2304, 4096), (100, 4320, 7680)]
)
def test_frames_of_large_clips_are_scaled_to_the_bound(
    session: Session, frames: int, height: int, width: int
) -> None:
    rows, columns = fit_for(session.processor, session.config)(frames, height, width)
    assert 0.99 * MOST_PIXELS < frames * rows * columns <= MOST_PIXELS
    assert rows / columns == pytest.approx(height / width, rel=0.01)


@pytest.mark.parametrize(
    ("processor", "least"),
    [
        (processor_of(height=384, width=384), (384, 384)),
        (processor_of(height=300, width=200), (300, 200)),
        (processor_of(shortest_edge=224), (224, 448)),
        (processor_of(shortest_edge=224, longest_edge=300), (150, 300)),
        (SimpleNamespace(image_processor=processor_of(height=90, width=80).video_processor), (90, 80)),
        (processor_of(), (32, 64)),
        (SimpleNamespace(), (32, 64)),
    ],
)
def test_no_frame_gets_smaller_than_the_processor_makes_it(
    session: Session, monkeypatch: pytest.MonkeyPatch, processor: Any, least: tuple[int, int]
) -> None:
    monkeypatch.setattr(fitting, "MOST_PIXELS", 32 * 64)
    assert fit_for(processor, session.config)(1, 500, 1000) == least
    assert fit_for(processor, session.config)(1, 40, 80) == (min(least[0], 40), min(least[1], 80))


def test_areas_are_no_edges(session: Session, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fitting, "MOST_PIXELS", 32 * 64)
    processor = processor_of(shortest_edge=100_000, longest_edge=10_000_000)
    processor.video_processor.merge_size = 2
    assert fit_for(processor, session.config)(1, 500, 1000) == (32, 64)


def test_frames_that_can_not_fit_are_refused_before_they_are_decoded(
    session: Session, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clip = write_clip(tmp_path / "clip.mp4", 200)
    monkeypatch.setattr(
        "adatp.video.decoding.VideoReformatter.reformat", lambda *_, **__: pytest.fail("kept")
    )
    with pytest.raises(PromptError, match="200 frames have 7200 tokens or more, but the model takes 4096"):
        session.prepare(clip, QUESTION, frames=10**6)
    session.processor.video_processor.use_token_compression = True  # then it may leave most of them out
    with pytest.raises(pytest.fail.Exception, match="kept"):
        session.prepare(clip, QUESTION, frames=10**6)
    del session.processor.video_processor.use_token_compression


def test_session_reads_as_it_prepares(session: Session, monkeypatch: pytest.MonkeyPatch) -> None:
    complete, read = read_video(CLIP, 8), session.read_video(CLIP, 8)
    assert (complete.frames == read.frames).all()
    monkeypatch.setattr(fitting, "MOST_PIXELS", 8 * 100 * 100)
    small, prompt = session.read_video(CLIP, 8), session.prepare(CLIP, QUESTION, frames=8)
    assert small.frames.shape == (8, 100, 100, 3)
    assert (small.frames == prompt.videos[0].frames).all()
    chat = [
        {"role": "user", "content": [{"type": "video", "video": CLIP}, {"type": "text", "text": QUESTION}]}
    ]
    assert session.prepare(None, chat, frames=8).videos[0].frames.shape == (8, 100, 100, 3)
    difference = (
        prompt.inputs["pixel_values_videos"]
        - session.prepare(complete, QUESTION).inputs["pixel_values_videos"]
    )
    assert difference.abs().mean() < 0.02


def test_pixels_are_those_of_all_frames_at_once() -> None:
    frames = np.random.default_rng(0).integers(0, 256, (5, 200, 301, 3), np.uint8)
    pixels = torch.as_tensor(frames).permute(0, 3, 1, 2).float()
    pixels = F.interpolate(pixels, size=(96, 96), mode="bilinear", antialias=True, align_corners=False)
    assert (pixel_values(frames) == pixels.div(127.5).sub(1)).all()
