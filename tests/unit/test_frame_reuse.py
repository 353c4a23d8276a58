"""Frames that are not encoded: which, what the model then gets, what is reported, who is refused."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from adatp import AdaTP
from adatp.frame_reuse import reference_frames
from adatp.methods import FastVID, FlashVID, HoliTom, Method, VisionZip
from adatp.pruning import PruningError
from adatp.tower_flops import siglip_vision_flops
from adatp.uncopied import no_hook
from agreement import Agree
from families import Gemma3, LlavaOnevision, Prompt, Qwen25VL, batch, build
from rounding import limit


@given(st.lists(st.integers(0, 4), min_size=1, max_size=9), st.integers(0, 3))
def test_a_frame_is_compared_with_the_last_one_encoded(levels: list[int], threshold: int) -> None:
    pixels = torch.tensor(levels)[:, None, None, None].expand(-1, 3, 2, 2).float()
    expected, reference = [], 0
    for number, level in enumerate(levels):
        if abs(level - levels[reference]) > threshold:
            reference = number
        expected.append(reference)
    assert reference_frames(pixels, threshold, 2) == expected


def test_one_patch_that_changes_is_enough_and_pixels_that_no_patch_covers_are_not() -> None:
    pixels = torch.zeros(3, 3, 9, 9)  # four by four patches of two, and a border that the tower does not see
    pixels[1, :, 2:4, 6:8] = 1
    pixels[2, :, 2:4, 6:8] = 1
    pixels[2, :, 8] = 5
    assert reference_frames(pixels, 0.9, 2) == [0, 1, 1]
    assert reference_frames(pixels, 1.0, 2) == [0, 0, 0]


def test_every_video_begins_anew() -> None:
    pixels = torch.zeros(6, 3, 2, 2)
    assert reference_frames(pixels, 0.5, 2) == [0] * 6
    assert reference_frames(pixels, 0.5, 2, 3) == [0, 0, 0, 3, 3, 3]


def still(inputs: dict[str, Tensor]) -> dict[str, Tensor]:
    """Frames 0 0 0 3 3 5 6 6 of the video."""
    pixels = inputs["pixel_values_videos"][:, [0, 0, 0, 3, 3, 5, 6, 6]]
    return {**inputs, "pixel_values_videos": pixels}


def encoded_frames(model: Any) -> list[int]:
    """How many frames the tower's first layer is given, call by call."""
    counts: list[int] = []
    layer = model.base_model.vision_tower.encoder.layers[0]
    layer.register_forward_pre_hook(lambda _, args: counts.append(len(args[0])))
    return counts


@pytest.mark.parametrize("flops", [1.0, 0.4])
def test_identical_frames_are_encoded_once_and_nothing_else_changes(flops: float, agree: Agree) -> None:
    model, inputs = build(LlavaOnevision), still(batch(LlavaOnevision, [Prompt()]))
    counts = encoded_frames(model)
    with AdaTP(flops=flops)(model) as run:
        complete = model(**inputs).logits
        plain = run.report.flops
    with AdaTP(flops=flops)(model, reuse_frames=0) as run:
        reused = model(**inputs).logits
    assert counts == [8, 4]
    agree(reused, complete, within=limit(LlavaOnevision))
    saved = siglip_vision_flops(model.config.vision_config, 4)
    assert run.report.flops.vision_saved == saved
    assert run.report.flops.vision == plain.vision - saved
    assert run.report.flops.request_vanilla == plain.request_vanilla


def test_frames_that_differ_are_all_encoded_to_the_bit() -> None:
    model, inputs = build(LlavaOnevision), batch(LlavaOnevision, [Prompt()])
    counts = encoded_frames(model)
    complete = model(**inputs).logits
    with AdaTP(flops=1.0)(model, reuse_frames=0) as run:
        assert torch.equal(model(**inputs).logits, complete)
    assert counts == [8, 8]
    assert run.report.flops.vision_saved == 0


def test_similar_frames_take_the_first_ones_features(agree: Agree) -> None:
    model, inputs = build(LlavaOnevision), still(batch(LlavaOnevision, [Prompt()]))
    noisy = inputs["pixel_values_videos"] + 0.01 * torch.rand(inputs["pixel_values_videos"].shape)
    counts = encoded_frames(model)
    frames = noisy[:, [0, 0, 0, 3, 3, 5, 6, 6]]
    complete = model(**{**inputs, "pixel_values_videos": frames}).logits
    with AdaTP(flops=1.0)(model, reuse_frames=0.02):
        reused = model(**{**inputs, "pixel_values_videos": noisy}).logits
    assert counts == [8, 4]
    agree(reused, complete, within=limit(LlavaOnevision))


@pytest.mark.parametrize("kind", [VisionZip, FastVID, FlashVID, HoliTom])
@torch.no_grad()
def test_attention_of_the_tower_is_that_of_every_frame(kind: type[Method]) -> None:
    model, inputs = build(LlavaOnevision), still(batch(LlavaOnevision, [Prompt()]))
    kept = []
    for reuse in (None, 0.0):
        with kind(flops=0.4)(model, reuse_frames=reuse) as run:
            model(**inputs)
        kept.append(run.report.kept[-1][0].tolist())
    assert kept[0] == kept[1]
    assert run.report.flops.vision_saved > 0


@pytest.mark.parametrize("generates", [False, True])
@torch.no_grad()
def test_a_batch_encodes_the_frames_that_its_videos_encode_alone(generates: bool, agree: Agree) -> None:
    """Also where the first frame of a video is similar to the last one of the video before."""
    model, one = build(LlavaOnevision), batch(LlavaOnevision, [Prompt()])
    last = one["pixel_values_videos"][:, -1:]
    other = {**one, "pixel_values_videos": last + 0.01 * torch.rand(one["pixel_values_videos"].shape)}
    both = {name: torch.cat([one[name], other[name]]) for name in one}
    counts, logits = encoded_frames(model), []
    with AdaTP(flops=1.0)(model, reuse_frames=0.02):
        for inputs in (one, other, both):
            if generates:  # it encodes the videos before it calls the model
                model.generate(**inputs, max_new_tokens=1, do_sample=False)
            else:
                logits.append(model(**inputs).logits)
    assert counts == [8, 1, 9]
    if not generates:
        agree(logits[2], torch.cat(logits[:2]), within=limit(LlavaOnevision))


@torch.no_grad()
def test_only_identical_images_are_encoded_once() -> None:
    """Where frames come as images, a batch has no marks between its videos."""
    model, inputs = build(Gemma3), batch(Gemma3, [Prompt()])
    first = inputs["pixel_values"][:1]
    inputs["pixel_values"] = first.repeat(len(inputs["pixel_values"]), 1, 1, 1)
    inputs["pixel_values"][-1] += 0.001
    counts = encoded_frames(model)
    with AdaTP(flops=1.0)(model, reuse_frames=0.1):
        model(**inputs)
    assert counts == [2]


def test_images_beside_the_video_keep_their_own(agree: Agree) -> None:
    model = build(LlavaOnevision)
    ids, image = LlavaOnevision.image()
    inputs = still(batch(LlavaOnevision, [Prompt()]))
    inputs["input_ids"] = torch.cat([inputs["input_ids"][:, :1], ids[None], inputs["input_ids"][:, 1:]], 1)
    inputs = {**inputs, **image, "attention_mask": torch.ones_like(inputs["input_ids"])}
    complete = model(**inputs).logits
    with AdaTP(flops=1.0)(model, reuse_frames=0):
        agree(model(**inputs).logits, complete, within=limit(LlavaOnevision))


def test_leaving_gives_the_tower_back_also_by_an_exception() -> None:
    model, inputs = build(LlavaOnevision), still(batch(LlavaOnevision, [Prompt()]))
    counts, complete = encoded_frames(model), model(**inputs).logits

    def fails() -> None:
        with AdaTP(flops=1.0)(model, reuse_frames=0):
            model(**inputs)
            raise RuntimeError("on its way")

    with pytest.raises(RuntimeError, match="on its way"):
        fails()
    assert torch.equal(model(**inputs).logits, complete)
    assert counts == [8, 4, 8]
    assert not model.base_model.vision_tower._forward_pre_hooks
    assert not model.base_model.vision_tower._forward_hooks


def test_a_tower_that_merges_frames_is_refused() -> None:
    model = build(Qwen25VL)
    with pytest.raises(PruningError, match=r"reuse_frames needs a vision tower.*leave it out"):
        AdaTP()(model, reuse_frames=0.1).__enter__()
    with AdaTP()(model):  # nothing stayed installed
        pass


def test_a_negative_difference_is_refused() -> None:
    with pytest.raises(ValueError, match="reuse_frames"):
        AdaTP()(build(LlavaOnevision), reuse_frames=-0.1)


@pytest.mark.parametrize("part", ["model", "tower"])
@torch.no_grad()
def test_a_copy_made_in_the_block_encodes_every_frame(part: str) -> None:
    """There and afterwards, as the model does that is not pruned."""
    model, inputs = build(LlavaOnevision), still(batch(LlavaOnevision, [Prompt()]))
    expected = model(**inputs).logits
    with VisionZip(flops=0.5)(model, reuse_frames=0.0) as run:
        model(**inputs)
        twin = copy.deepcopy(model) if part == "model" else build(LlavaOnevision)
        if part == "tower":
            twin.base_model.vision_tower = copy.deepcopy(model.base_model.vision_tower)
        counts = encoded_frames(twin)
        assert torch.equal(twin(**inputs).logits, expected)
        assert len(run.reports) == 1
    assert torch.equal(twin(**inputs).logits, expected)
    assert counts == [8, 8]
    watching = [hook for module in twin.modules() for hook in hooks_of(module) if ours(hook)]
    assert all(hook.hook is no_hook for hook in watching)


def hooks_of(module: nn.Module) -> list[Any]:
    return [*module._forward_hooks.values(), *module._forward_pre_hooks.values()]


def ours(hook: Any) -> bool:
    return type(hook).__module__.startswith("adatp") or getattr(hook, "__module__", "").startswith("adatp")
