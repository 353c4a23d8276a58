"""``method=vanilla`` is lmms-eval's own model of the family: the same inputs, settings and answers."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from checkpoints import Checkpoints
from harness import Asked, Question, evaluate, noted, said, write_clip, write_task
from PIL import Image

from families import FAMILIES

PIXELS = {"min_pixels": 784, "max_pixels": 4096}
"""Arguments of lmms-eval's own models, which adatp hands on."""

OWN = {
    "llava_onevision": ("llava_hf", "max_frames_num", {}),
    "qwen2_vl": ("qwen2_vl", "max_num_frames", PIXELS),
    "qwen2_5_vl": ("qwen2_5_vl", "max_num_frames", PIXELS),
    "qwen3_vl": ("qwen3_vl", "max_num_frames", PIXELS),
    "qwen3_5": ("qwen3_5", "max_num_frames", PIXELS),
    "internvl": ("internvl_hf", "num_frames", {}),
    "gemma3": ("gemma3", "max_num_frames", PIXELS),
}
FRAMES = 8


def questions(folder: Path, family: str) -> list[Question]:
    """Two about a video, and one with an image: beside a video where lmms-eval's model takes both."""
    clips = [write_clip(folder / f"{number}.mp4", FRAMES, seed=number) for number in range(2)]
    pixels = np.random.default_rng(3).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(folder / "image.png")
    together = [] if family == "llava_onevision" else clips[:1]
    return [
        Question("what is the red ball ?", clips[:1]),
        Question("who runs in the green dog ?", clips[1:]),
        Question("which cat jumps ?", together, [str(folder / "image.png")]),
    ]


def sorted_calls(asked: Asked) -> list[tuple[dict[str, torch.Tensor], torch.Tensor, dict[str, object]]]:
    """The calls in an order of their own: each model has its own order of documents."""
    calls = zip(asked.inputs, asked.outputs, asked.settings, strict=True)
    return sorted(calls, key=lambda call: call[0]["input_ids"].tolist())


@pytest.mark.usefixtures("pyav_for_files")
@pytest.mark.parametrize("simple", [False, True], ids=["chat", "simple"])
@pytest.mark.parametrize("family", OWN)
def test_vanilla_is_their_own_model(
    checkpoints: Checkpoints, tmp_path: Path, family: str, simple: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    own, frames, more = OWN[family]
    if family == "llava_onevision" and not simple:
        take_no_images(monkeypatch)
    tasks = write_task(tmp_path / "tasks", questions(tmp_path, family))
    shared = {"pretrained": checkpoints / family, **more}
    with noted() as theirs:
        expected = said(
            evaluate(own, {**shared, frames: FRAMES, "device_map": "cpu"}, tasks, force_simple=simple)
        )
    with noted() as ours:
        found = said(
            evaluate("adatp", {**shared, "method": "vanilla", "frames": FRAMES}, tasks, force_simple=simple)
        )
    assert found == expected
    assert len(ours.inputs) == len(theirs.inputs) == 3
    for mine, other in zip(sorted_calls(ours), sorted_calls(theirs), strict=True):
        assert mine[0].keys() == other[0].keys()
        for name, value in other[0].items():
            assert torch.equal(mine[0][name], value), name
        assert torch.equal(mine[1], other[1])
        assert mine[2].items() >= other[2].items()


def take_no_images(monkeypatch: pytest.MonkeyPatch) -> None:
    """transformers' processor refuses the empty list of images that their chat model hands over."""
    from transformers import LlavaOnevisionProcessor

    call = LlavaOnevisionProcessor.__call__
    monkeypatch.setattr(
        LlavaOnevisionProcessor,
        "__call__",
        lambda processor, images=None, **given: call(processor, images=images or None, **given),
    )


@pytest.mark.parametrize("family", [family.name for family in FAMILIES])
def test_every_family_is_pruned(checkpoints: Checkpoints, tmp_path: Path, family: str) -> None:
    """Those without a model in lmms-eval too, and all with prompts that adatp writes."""
    clip = write_clip(tmp_path / "clip.mp4", FRAMES)
    tasks = write_task(tmp_path / "tasks", [Question("what is the red ball ?", [clip])])
    arguments = {"pretrained": checkpoints / family, "frames": FRAMES, "prompts": "adatp"}
    results = evaluate("adatp", {**arguments, "method": "uniform_grid", "flops": 0.6}, tasks)
    [sample] = results["samples"]["asked"]
    [counts] = sample["token_counts"]
    assert counts["visual_tokens"] < counts["prompt_visual_tokens"]
    assert counts["input_tokens"] < counts["prompt_tokens"]
    assert counts["flops_ratio"] < 0.75
