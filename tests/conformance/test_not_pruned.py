"""What is not pruned is left alone, and a warning says so."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from transformers import CompileConfig

from adatp import AdaTP
from adatp.methods.vanilla import Vanilla
from adatp.models import decoder_of
from adatp.pruning import PruningError
from agreement import Agree
from families import (
    LlavaOnevision,
    Prompt,
    batch,
    build,
)
from suite import BY_TOKEN, EVERY, GREEDY, LATE, ONE, VERSION, engine, feature, generated_logits


@pytest.mark.skipif(
    VERSION in [(5, 5), (5, 12), (5, 16), (5, 18)],
    reason="in these versions of transformers a prompt in chunks loses its video, pruned or not",
)
@feature("warned", [family for family in EVERY if family.found and family.in_chunks])
def test_a_prompt_in_chunks_is_not_pruned(family: Any, prune: AdaTP, agree: Agree) -> None:
    model, inputs = build(family), batch(family, ONE)
    expected = model.generate(**inputs, **GREEDY, prefill_chunk_size=16)
    with prune(model) as run, pytest.warns(UserWarning, match="not pruned: the prompt comes in chunks"):
        output = model.generate(**inputs, **GREEDY, prefill_chunk_size=16)
    agree(generated_logits(output), generated_logits(expected))
    assert not run.reports


@engine
def test_text_alone_is_left_alone(family: Any, prune: AdaTP, agree: Agree) -> None:
    model = build(family)
    ids = torch.arange(1, 20)[None]
    expected = model.generate(input_ids=ids, **GREEDY)
    with prune(model) as run:
        output = model.generate(input_ids=ids, **GREEDY)
        agree(generated_logits(output), generated_logits(expected))
        with pytest.raises(PruningError, match="no prompt with a video"):
            _ = run.report


@feature("warned", [family for family in EVERY if family.may_end_with_video])
def test_a_video_with_no_words_after_it_is_not_pruned(family: Any, prune: AdaTP, agree: Agree) -> None:
    model, inputs = build(family), batch(family, ONE)
    cut = int((inputs["input_ids"][0] == family.token).nonzero()[-1]) + 1
    for name in ("input_ids", "attention_mask", *BY_TOKEN):
        if name in inputs:
            inputs[name] = inputs[name][:, :cut]
    expected = model(**inputs).logits
    with prune(model), pytest.warns(UserWarning, match="not pruned: no text follows"):
        agree(model(**inputs).logits, expected)


@torch.no_grad()
def test_prompts_packed_into_one_row_are_not_pruned(agree: Agree) -> None:
    model = build(LlavaOnevision)
    first, second = (batch(LlavaOnevision, [Prompt(seed=seed)]) for seed in (0, 1))
    length = first["input_ids"].shape[1]
    packed = {
        "input_ids": torch.cat([first["input_ids"], second["input_ids"]], 1),
        "pixel_values_videos": torch.cat([first["pixel_values_videos"], second["pixel_values_videos"]]),
        "position_ids": torch.arange(length).repeat(2)[None],
    }
    expected = model(**packed).logits
    with (
        AdaTP(flops=0.5)(model) as run,
        pytest.warns(UserWarning, match="not pruned: several prompts in one"),
    ):
        agree(model(**packed).logits, expected)
    assert sum(run.not_pruned.values()) == 1


@torch.no_grad()
def test_layers_that_run_without_their_hooks_are_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    """As those of compiled code do that a context has not found."""
    model, inputs = build(LlavaOnevision), batch(LlavaOnevision, ONE)
    with Vanilla()(model):
        layer = decoder_of(model).layers[3]
        monkeypatch.setattr(layer, "_forward_pre_hooks", {})
        with pytest.raises(RuntimeError, match="without the hooks"):
            model(**inputs, use_cache=False)


@torch.no_grad()
def test_decoding_that_generate_would_compile_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a GPU `generate` compiles the steps after a prompt on a static cache; here it does on request."""
    model, inputs = build(LlavaOnevision), batch(LlavaOnevision, ONE)
    static = {**GREEDY, "cache_implementation": "static"}
    asked = CompileConfig(backend="eager", mode=None)
    asked._compile_all_devices = True
    compiled: list[Any] = []
    monkeypatch.setattr(type(model), "get_compiled_call", lambda self, _: compiled.append(self) or self)
    with LATE(model):
        expected = generated_logits(model.generate(**inputs, **static))
        with pytest.warns(UserWarning, match="not compiled while the model is being pruned"):
            output = model.generate(**inputs, **static, compile_config=asked)
    assert torch.equal(generated_logits(output), expected)
    assert not compiled
    model.generate(**inputs, **static, compile_config=asked)
    assert compiled == [model]
