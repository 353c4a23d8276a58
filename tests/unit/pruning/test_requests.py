"""Steps belong to the request that they follow; what is not pruned is counted, and why."""

from __future__ import annotations

import copy
import pickle
import warnings
from typing import Any

import pytest
import torch
from transformers import DynamicCache, StaticCache

from adatp import AdaTP, PruningError
from adatp.methods import Vanilla
from adatp.methods.base import Method
from adatp.models import family_of
from families import FAMILIES, InternVL, LlavaOnevision, Prompt, Qwen25VL, batch, build
from suite import GREEDY, LATE, ONE, STEPS

BEFORE = {"max_new_tokens": STEPS, "min_new_tokens": STEPS, "do_sample": False}
either = pytest.mark.parametrize("method", [LATE, Vanilla()], ids=lambda method: method.name)


@either
@pytest.mark.parametrize("other", ["text", "image", "embeds", "not-pruned"])
def test_steps_of_another_request_are_not_this_ones(method: Method, other: str) -> None:
    model, inputs = build(LlavaOnevision), batch(LlavaOnevision, ONE)
    ids = torch.arange(1, 20)[None]
    if other == "image":
        image, pixels = LlavaOnevision.image()
        unrelated = {"input_ids": torch.cat([ids[0, :3], image, ids[0, 3:]])[None], **pixels}
    elif other == "embeds":
        unrelated = {"inputs_embeds": model.get_input_embeddings()(ids)}
    elif other == "not-pruned":
        unrelated = batch(LlavaOnevision, [Prompt(seed=3)])
        unrelated = {name: part[:, :-7] if part.ndim == 2 else part for name, part in unrelated.items()}
    else:
        unrelated = {"input_ids": ids}
    with method(model) as run, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model.generate(**inputs, **BEFORE)
        before = run.report.decode_steps, run.report.flops, run.report.milliseconds["decode"]
        assert before[0] == STEPS - 1
        model.generate(**unrelated, **BEFORE)
        assert (run.report.decode_steps, run.report.flops, run.report.milliseconds["decode"]) == before
        model.generate(**inputs, **BEFORE)
    assert [report.decode_steps for report in run.reports] == [STEPS - 1] * 2


@either
@torch.no_grad()
def test_steps_of_two_requests_in_turns(method: Method) -> None:
    model = build(LlavaOnevision)
    step = torch.tensor([[17]])
    config = model.config.get_text_config()
    caches = [DynamicCache(config=config), StaticCache(config, 128)]
    with method(model) as run:
        for cache, prompt in zip(caches, [Prompt(seed=1), Prompt(seed=2)], strict=True):
            model(**batch(LlavaOnevision, [prompt]), past_key_values=cache)
        for which in (0, 1, 0, 0):
            model(input_ids=step, past_key_values=caches[which])
        twin = copy.deepcopy(caches[1])
        model(input_ids=step, past_key_values=twin)
    assert [report.decode_steps for report in run.reports] == [3, 2]
    caches[1].reset()
    with method(model) as later:
        model(input_ids=torch.arange(1, 9)[None], past_key_values=caches[1])
        model(input_ids=step, past_key_values=caches[1])
    assert [report.decode_steps for report in run.reports] == [3, 2]
    assert not later.reports
    assert run.report.stopwatch is not run.reports[0].stopwatch


@torch.no_grad()
def test_what_a_cache_carries_can_be_pickled() -> None:
    model = build(LlavaOnevision)
    cache = DynamicCache(config=model.config.get_text_config())
    with Vanilla()(model) as run:
        model(**batch(LlavaOnevision, ONE), past_key_values=cache)
        model(input_ids=torch.tensor([[17]]), past_key_values=pickle.loads(pickle.dumps(cache)))
    assert run.report.decode_steps == 0


@pytest.mark.parametrize("family", [LlavaOnevision, Qwen25VL, InternVL], ids=lambda family: family.name)
def test_features_of_many_videos_that_were_computed_first(family: Any) -> None:
    model = build(family)
    requests = [batch(family, [Prompt(frames=2 * n, seed=n)]) for n in (2, 3, 4, 5)]
    images = family is InternVL
    names = ["pixel_values"] if images else ["pixel_values_videos", "video_grid_thw"]
    kind, compute = ("image", model.get_image_features) if images else ("video", model.get_video_features)
    expected = []
    with torch.no_grad():
        for inputs in requests:
            with LATE(model) as run:
                model(**inputs)
            expected.append(run.report.flops)
        with LATE(model) as run:
            features = [
                compute(**{name: inputs[name] for name in names if name in inputs}) for inputs in requests
            ]
            for inputs, encoded in zip(requests, features, strict=True):
                rest = {name: part for name, part in inputs.items() if "pixel" not in name}
                model(**rest, mm_encoder_outputs={kind: encoded})
    assert [report.flops for report in run.reports] == expected
    assert not run.not_pruned
    assert all(report.milliseconds["vision"] > 0 for report in run.reports)


@pytest.mark.filterwarnings("default")
def test_all_that_is_not_pruned_is_counted() -> None:
    """Python shows equal warnings once."""
    model, inputs = build(LlavaOnevision), batch(LlavaOnevision, ONE)
    short = {name: part[:, :-7] if part.ndim == 2 else part for name, part in inputs.items()}
    embeds = model.get_input_embeddings()(torch.arange(1, 30)[None])
    with torch.no_grad(), LATE(model) as run, warnings.catch_warnings(record=True) as shown:
        warnings.simplefilter("default")
        for _ in range(3):
            model(**short)
        model.generate(inputs_embeds=embeds, **BEFORE)
        model.generate(**inputs, **BEFORE)
        model.generate(input_ids=torch.arange(1, 30)[None], **BEFORE)
    noted = [str(each.message) for each in shown if "not pruned" in str(each.message)]
    assert len(noted) == 2
    assert list(run.not_pruned.values()) == [3, 1]
    for_video, for_embeds = run.not_pruned
    assert for_video.startswith("no text follows the video")
    assert "inputs_embeds" in for_embeds
    assert len(run.reports) == 1


def test_an_error_says_why_there_is_no_report() -> None:
    model = build(LlavaOnevision)
    embeds = model.get_input_embeddings()(torch.arange(1, 30)[None])
    with LATE(model) as run, pytest.warns(UserWarning, match="not pruned: .*inputs_embeds"):
        model.generate(inputs_embeds=embeds, **BEFORE)
    with pytest.raises(PruningError, match=r"nothing to report.*inputs_embeds.*\(1x\)"):
        _ = run.report
    with pytest.raises(TypeError):
        run.not_pruned["mine"] = 1  # type: ignore[index]


@pytest.mark.parametrize(
    "family",
    [family for family in FAMILIES if family_of(family.name).encoded_as == "video" and family.images_beside],
    ids=lambda family: family.name,
)
@torch.no_grad()
def test_several_images_in_the_place_of_a_video_warn(family: Any) -> None:
    model = build(family)
    image, pixels = family.image()
    words = torch.arange(1, 6)
    once = torch.cat([words, image, words])[None]
    twice = torch.cat([words, image, words, image, words])[None]
    double = {name: torch.cat([part, part]) for name, part in pixels.items()}
    with LATE(model) as run:
        model(input_ids=once, **family.more(once), **pixels)
        assert not run.not_pruned
        with pytest.warns(UserWarning, match="not pruned: images are not frames"):
            model(input_ids=twice, **family.more(twice), **double)
    assert list(run.not_pruned.values()) == [1]


@torch.no_grad()
def test_a_decoder_called_by_itself_runs() -> None:
    model = build(LlavaOnevision)
    ids = torch.arange(1, 20)[None]
    expected = model.get_decoder()(input_ids=ids).last_hidden_state
    with AdaTP()(model) as run:
        assert torch.equal(model.get_decoder()(input_ids=ids).last_hidden_state, expected)
    assert not run.reports


@torch.no_grad()
def test_a_decoder_called_by_itself_goes_on_with_a_pruned_cache() -> None:
    """Also by ids, under a mask of the new tokens alone."""
    model, ids = build(LlavaOnevision), torch.arange(1, 4)[None]
    decoder, cache = model.get_decoder(), DynamicCache(config=model.config.get_text_config())
    with LATE(model) as run:
        model(**batch(LlavaOnevision, ONE), past_key_values=cache)
        twin = copy.deepcopy(cache)
        embeds = model.get_input_embeddings()(ids)
        expected = decoder(inputs_embeds=embeds, past_key_values=cache).last_hidden_state
        mask = torch.ones_like(ids)
        found = decoder(input_ids=ids, attention_mask=mask, past_key_values=twin).last_hidden_state
    assert torch.equal(found, expected)
    assert run.report.decode_steps == 2 * ids.shape[1]


def test_a_failed_tower_leaves_nothing_of_its_request() -> None:
    model, inputs = build(LlavaOnevision), batch(LlavaOnevision, ONE)
    with torch.no_grad(), LATE(model) as run:
        handle = model.base_model.vision_tower.register_forward_hook(lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            model(**inputs)
        handle.remove()
        model(input_ids=torch.arange(1, 20)[None])
        assert not run.reports
        assert not run.not_pruned
        model.generate(**inputs, **GREEDY)
    assert len(run.reports) == 1
