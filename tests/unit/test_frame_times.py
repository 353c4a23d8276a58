"""Models are given the time at which each frame of a video was shown, not an even frame rate."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import transformers

import chats
from adatp import AdaTP, PromptError, Session
from adatp.models import family_of
from adatp.session.frame_times import metadata
from adatp.session.prompt import build_prompt
from adatp.video import Video, read_video
from families import Glm4v, Glm46V, Prompt, Qwen3VL, Qwen25VL, SmolVLM, VideoLlama3, batch, build
from more_families import Qwen3OmniMoeThinker, Qwen25OmniThinker
from processors import PROCESSORS

EVEN = (0.0, 3.32, 6.64, 9.96)  # four frames of a clip of ten seconds
UNEVEN = (0.0, 0.1, 0.2, 5.0, 61.5, 62.0, 100.0)  # a rate that varies; an odd number of frames

# Of two frames each processor writes one time: the mean, or the first one's, also cut to full seconds.
AVERAGES = {"even": [1.7, 8.3], "uneven": [0.1, 2.6, 61.8, 100.0]}
FIRSTS = {"even": [0.0, 6.6], "uneven": [0.0, 0.2, 61.5, 100.0]}
SECONDS = {"even": [0, 6], "uneven": [0, 0, 61, 100]}

EACH = {"even": [0.0, 3.3, 6.6, 10.0], "uneven": [0.0, 0.1, 0.2, 5.0, 61.5, 62.0, 100.0]}
MINUTES = {"even": ["00:00", "00:03", "00:06", "00:09"]}
MINUTES["uneven"] = ["00:00", "00:00", "00:00", "00:05", "01:01", "01:02", "01:40"]

WRITTEN = {  # how a processor writes a time, and which ones it writes
    Qwen3VL: (r"<([\d.]+) ?seconds>", float, AVERAGES),
    Glm4v: (r"<\|end_of_image\|>(\d+)", int, SECONDS),
    Glm46V: (r"<\|end_of_image\|>([\d.]+)", float, FIRSTS),
    VideoLlama3: (r"Time ([\d.]+)s:", float, EACH),
    SmolVLM: (r"Frame from (\d\d:\d\d):", str, MINUTES),
}


def shown(times: tuple[float, ...], side: int = 32) -> Video:
    """Frames of noise at given times."""
    frames = np.random.default_rng(0).integers(0, 256, (len(times), side, side, 3), dtype=np.uint8)
    return Video(frames, np.array(times), duration=times[-1] + 0.04, fps=25.0)


def steps_of(model: Any, inputs: dict[str, Any]) -> list[int]:
    """Rotary positions of the temporal steps of a Qwen-VL's video, from the first one."""
    names = ("input_ids", "mm_token_type_ids", "video_grid_thw", "second_per_grid_ts", "attention_mask")
    positions, _ = model.model.get_rope_index(**{name: inputs[name] for name in names})
    of_video = positions[0, 0][inputs["input_ids"][0] == model.config.video_token_id]
    return (of_video.unique() - of_video[0]).tolist()


@pytest.mark.parametrize("times", [EVEN, UNEVEN], ids=["even", "uneven"])
@pytest.mark.parametrize("family", WRITTEN, ids=lambda family: family.name)
def test_the_time_of_each_frame_is_written_into_the_prompt(family: Any, times: tuple[float, ...]) -> None:
    processor, config = chats.processor(family), family.config()
    config.get_text_config().vocab_size = chats.VOCABULARY
    prompt = build_prompt(processor, config, shown(times), "When does the dog jump?")
    text = processor.tokenizer.decode(prompt.inputs["input_ids"][0])
    pattern, kind, expected = WRITTEN[family]
    found = [kind(time) for time in re.findall(pattern, text)]
    assert found == expected["even" if times is EVEN else "uneven"]


def test_qwen_places_even_frames_at_their_own_distance() -> None:
    """One number a video, as the model was trained: two frames make a step."""
    inputs = build_prompt(PROCESSORS[Qwen25VL](), Qwen25VL.config(), shown(EVEN), "what ?").inputs
    assert inputs["second_per_grid_ts"].tolist() == pytest.approx([6.64])


def test_rounding_to_frames_of_a_file_is_no_uneven_rate(tmp_path: Path) -> None:
    from clips import write_clip

    clip = read_video(write_clip(tmp_path / "clip.mp4", 240), 7)
    assert len(set(np.diff(clip.timestamps).round(4))) > 1
    inputs = build_prompt(PROCESSORS[Qwen25VL](), Qwen25VL.config(), clip, "what ?").inputs
    distance = 2 * clip.timestamps[-1] / 6
    assert inputs["second_per_grid_ts"].tolist() == pytest.approx([distance])


@pytest.mark.skipif(
    tuple(map(int, transformers.__version__.split(".")[:2])) < (5, 23),
    reason="this transformers rounds the one distance that it takes for a video",
)
def test_qwen_places_uneven_frames_at_their_own_times() -> None:
    model = build(Qwen25VL)
    processor, rate = PROCESSORS[Qwen25VL](), model.config.vision_config.tokens_per_second
    prompt = build_prompt(processor, model.config, shown(UNEVEN), "what ?")
    expected = [int(rate * time) for time in UNEVEN[::2]]
    assert steps_of(model, prompt.inputs) == sorted({*expected})
    later = build_prompt(processor, model.config, shown(tuple(t + 7 for t in UNEVEN)), "what ?")
    assert steps_of(model, later.inputs) == sorted({*expected})  # counted from the first frame
    session = Session.of(model, processor)
    method = AdaTP(flops=0.8)
    alone = session.answer(prompt, method, max_new_tokens=4)
    assert session.answer_batch([prompt, prompt], method, max_new_tokens=4)[1].token_ids == alone.token_ids
    session.answer(prompt, method, max_new_tokens=4, num_beams=2)


@pytest.mark.parametrize("family", [Qwen25OmniThinker, Qwen3OmniMoeThinker], ids=lambda family: family.name)
def test_omni_models_place_uneven_frames_at_their_own_times(family: Any) -> None:
    """Their processors say one second or two, whatever the video."""
    model, inputs = build(family), batch(family, [Prompt(frames=4)])  # four steps of two frames
    for shown_at in (np.array([*UNEVEN, 102.0]), np.arange(8) * 1.5):
        placed = family_of(family.name).place_in_time(model.config, inputs, [shown_at])
        positions, _ = model.get_rope_index(
            placed["input_ids"],
            video_grid_thw=placed["video_grid_thw"],
            second_per_grids=placed["video_second_per_grid"],
            attention_mask=placed["attention_mask"],
        )
        of_video = positions[0, 0][placed["input_ids"][0] == family.token]
        rate = model.config.position_id_per_seconds
        found = (of_video.unique() - of_video[0]).tolist()
        # One model cuts to full positions, the other does not.
        exact = all(abs(a - rate * t) < 0.05 for a, t in zip(found, shown_at[::2], strict=True))
        assert exact or found == [int(rate * t) for t in shown_at[::2]]
        assert model(**placed).logits.isfinite().all()


@pytest.mark.parametrize(
    "times", [(0.0, 1.0), (0.0, 2.0, 1.0), (0.0, float("nan"), 1.0)], ids=["few", "descending", "no number"]
)
def test_times_that_are_none_are_refused(times: tuple[float, ...]) -> None:
    frames = np.zeros((3, 8, 8, 3), np.uint8)
    with pytest.raises(PromptError, match="a video of 3 frames has as many timestamps"):
        metadata(Video(frames, np.array(times), 1.0, 1.0))
    with pytest.raises(PromptError, match="without a frame"):
        metadata(Video(frames[:0], np.array([]), 1.0, 1.0))


def test_frames_at_one_time_and_lone_frames_have_a_rate() -> None:
    for times, duration, distance in [((4.0,), 0.5, 0.5), ((1.0, 1.0), 0.0, 1.0), ((1.0, 1.0), 4.0, 2.0)]:
        frames = np.zeros((len(times), 8, 8, 3), np.uint8)
        noted = metadata(Video(frames, np.array(times), duration, 25.0))
        assert noted["frames_indices"] == list(times)
        assert noted["total_num_frames"] / len(times) == distance
