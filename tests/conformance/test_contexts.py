"""Entering, nesting, leaving: outside the context the model is what it was."""

from __future__ import annotations

import gc
import weakref
from contextlib import nullcontext
from typing import Any

import pytest
import torch

import fake_flash
from adatp import AdaTP
from adatp.models import decoder_of
from adatp.pruning import PruningError
from agreement import Agree
from families import (
    LlavaOnevision,
    batch,
    build,
)
from snapshots import snapshot
from suite import GREEDY, LATE, ONE, RAGGED, dropped, engine, feature, generated_logits


def within_layer(model: Any) -> Any:
    """The last module of a decoder layer; its feed-forward block has other names in other models."""
    return list(decoder_of(model).layers[3].children())[-1]


@feature("leaving")
@pytest.mark.parametrize("fails", [False, True], ids=["leaving", "an-exception"])
def test_leaving_restores_everything(family: Any, fails: bool, prune: AdaTP, agree: Agree) -> None:
    model, inputs = build(family), batch(family, RAGGED)
    expected = model.generate(**inputs, **GREEDY)
    before = snapshot(model)
    with pytest.raises(ZeroDivisionError) if fails else nullcontext(), prune(model):
        model.generate(**inputs, **GREEDY)
        assert snapshot(model) != before
        if fails:
            hook = within_layer(model).register_forward_hook(lambda *_: 1 / 0)
            try:
                model(**inputs)
            finally:
                hook.remove()
    after = snapshot(model)
    assert after == before
    again = model.generate(**inputs, **GREEDY)
    agree(generated_logits(again), generated_logits(expected))


@engine
def test_two_models_do_not_see_each_other(family: Any, prune: AdaTP, agree: Agree) -> None:
    """Even two that share a config object."""
    model, inputs = build(family), batch(family, ONE)
    other = family.model_class(model.config).eval()
    other.load_state_dict(model.state_dict())
    expected = other(**inputs).logits
    with prune(model) as run:
        agree(other(**inputs).logits, expected)
        assert not run.reports
        with AdaTP(flops=0.7)(other) as second:
            mine, its = model(**inputs).logits, other(**inputs).logits
        assert not torch.equal(mine, its)
        assert run.report.flops_ratio <= 0.5 < second.report.flops_ratio <= 0.7
        agree(other(**inputs).logits, expected)
        agree(model(**inputs).logits, mine)


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_the_attention_may_be_changed_inside(attention: str, agree: Agree) -> None:
    """SDPA needs no mask where eager attention has one."""
    other = {"eager": "sdpa", "sdpa": "eager"}[attention]
    model, inputs = build(LlavaOnevision, attention), batch(LlavaOnevision, ONE)
    loaded_so = build(LlavaOnevision, other)
    with LATE(loaded_so) as expected:
        logits = loaded_so(**inputs).logits
    with LATE(model) as run:
        model.set_attn_implementation(other)
        agree(model(**inputs).logits, logits, within=1e-5)
    assert run.report.tokens == expected.report.tokens


@engine
def test_nesting_is_refused(family: Any, prune: AdaTP, agree: Agree) -> None:
    model, inputs = build(family), batch(family, ONE)
    expected = model(**inputs).logits
    with prune(model) as run:
        with pytest.raises(PruningError, match="already"), prune(model):
            pass
        model(**inputs)
        assert dropped(run)
    agree(model(**inputs).logits, expected)


@engine
@pytest.mark.parametrize("what", ["flex", "chunked", "flash over windows"])
def test_what_can_not_be_pruned_is_refused_on_entering(family: Any, what: str, prune: AdaTP) -> None:
    model = build(family)
    config = decoder_of(model).config
    if what == "flex":
        config._attn_implementation, reason = "flex_attention", "'flex_attention' can't be"
    elif what == "chunked":
        config.layer_types, reason = ["full_attention", "chunked_attention"] * 3, "type chunked_attention"
    else:
        config.layer_types, config.sliding_window = ["full_attention", "sliding_attention"] * 3, 24
        config._attn_implementation, reason = fake_flash.NAME, f"'{fake_flash.NAME}' counts a sliding window"
    with pytest.raises(PruningError, match=reason):
        prune(model).__enter__()
    assert not any(module._forward_pre_hooks for module in model.modules())


@pytest.mark.parametrize(
    ("name", "reason"), [("index_topk", "indexed"), ("num_kv_shared_layers", "share the keys")]
)
def test_indexed_and_shared_keys_are_refused(name: str, reason: str) -> None:
    model = build(LlavaOnevision)
    setattr(decoder_of(model).config, name, 16)
    with pytest.raises(PruningError, match=reason):
        LATE(model).__enter__()
    assert not any(module._forward_pre_hooks for module in model.modules())


@feature("leaving")
def test_nothing_of_a_request_is_held_afterwards(family: Any, prune: AdaTP) -> None:
    model, inputs = build(family), batch(family, ONE)
    encoded = []
    model.base_model.register_forward_pre_hook(
        lambda _, args, kwargs: encoded.append(kwargs.get("mm_encoder_outputs")), with_kwargs=True
    )
    with prune(model):
        model.generate(**inputs, **GREEDY)
        gone = weakref.ref(next(iter(encoded[0].values()))) if encoded[0] else None
        encoded.clear()
        gc.collect()
        assert gone is None or gone() is None


@engine
def test_after_a_failed_call_the_next_is_reported_right(family: Any, prune: AdaTP) -> None:
    model, inputs = build(family), batch(family, ONE)
    with prune(model) as run:
        hook = within_layer(model).register_forward_hook(lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            model(**inputs)
        hook.remove()
        model(input_ids=torch.arange(1, 9)[None])
        assert not run.reports
        model(**inputs)
        assert len(run.reports) == 1
        assert dropped(run)
