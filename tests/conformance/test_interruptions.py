"""Calls that end in the middle, copies and what is saved: nothing is wrong without a word."""

from __future__ import annotations

import copy
import io
from typing import Any

import pytest
import torch
from transformers import DynamicCache, StaticCache

from adatp import AdaTP
from adatp.models import decoder_of
from agreement import Agree
from families import batch, build
from suite import GREEDY, ONE, RAGGED, dropped, engine, generated_logits, shape_of

ENDINGS = [KeyboardInterrupt, ZeroDivisionError]


def interrupted(
    model: Any, layer: int, ending: type[BaseException], where: str = "mlp", **inputs: Any
) -> None:
    """One call that ends in the middle of a layer: in its MLP, once its tokens are in the cache."""

    def end(*_: Any) -> None:
        raise ending

    hook = decoder_of(model).layers[layer].get_submodule(where).register_forward_pre_hook(end)
    try:
        with pytest.raises(ending):
            model(**inputs)
    finally:
        hook.remove()


@engine
@pytest.mark.parametrize("ending", ENDINGS)
@pytest.mark.parametrize("layer", [1, 4])
@torch.no_grad()
def test_a_cache_left_half_filled_is_refused(
    family: Any, layer: int, ending: type[BaseException], prune: AdaTP
) -> None:
    """By a prefill, by a decode step; in the context, in another one, outside."""
    model, inputs = build(family), batch(family, ONE)
    config, step = model.config.get_text_config(), {"input_ids": torch.tensor([[5]])}
    prefill, decode = DynamicCache(config=config), DynamicCache(config=config)
    with prune(model) as run:
        interrupted(model, layer, ending, **inputs, past_key_values=prefill)
        model(**inputs, past_key_values=decode)
        interrupted(model, layer, ending, **step, past_key_values=decode)
        for cache in (prefill, decode, copy.deepcopy(prefill)):
            with pytest.raises(RuntimeError, match="half filled"):
                model(**step, past_key_values=cache)
        assert len(run.reports) == 1
        assert run.report.decode_steps == 0
    with prune(model):
        for cache in (prefill, decode):
            with pytest.raises(RuntimeError, match="half filled"):
                model(**step, past_key_values=cache)
    for cache in (prefill, decode, copy.deepcopy(decode)):
        with pytest.raises(RuntimeError, match="half filled"):
            model(**step, past_key_values=cache)


@engine
@pytest.mark.parametrize("where", ["input_layernorm", "mlp"])
@torch.no_grad()
def test_what_comes_after_a_keyboard_interrupt_is_right(
    family: Any, where: str, prune: AdaTP, agree: Agree
) -> None:
    """A text prompt shorter than the rows that were to be scored, a prompt with a video, the model itself."""
    model, inputs = build(family), batch(family, RAGGED)
    text = {"input_ids": torch.arange(1, 4)[None]}
    expected = model(**text).logits
    states = decoder_of(model)(**text).last_hidden_state
    with prune(model):
        pruned = generated_logits(model.generate(**inputs, **GREEDY))
    with prune(model) as run:
        scored = min(run.method.scored_layers(shape_of(model)))
        for layer in (0, scored, len(family.layers) - 1):
            interrupted(model, layer, KeyboardInterrupt, where, **inputs)
            agree(model(**text).logits, expected)
            interrupted(model, layer, KeyboardInterrupt, where, **inputs)
            agree(generated_logits(model.generate(**inputs, **GREEDY)), pruned)
            assert dropped(run)
        interrupted(model, scored, KeyboardInterrupt, where, **inputs)
        agree(decoder_of(model)(**text).last_hidden_state, states)
        assert not run.not_pruned
    agree(model(**text).logits, expected)


@engine
@pytest.mark.parametrize("ending", ENDINGS)
@torch.no_grad()
def test_a_request_that_ends_once_its_video_is_encoded_leaves_nothing(
    family: Any, ending: type[BaseException], prune: AdaTP, agree: Agree
) -> None:
    """Between the tower and the decoder. What comes next is no part of it."""
    model, inputs = build(family), batch(family, ONE)
    text = {"input_ids": torch.arange(1, 20)[None]}
    expected = model(**text).logits
    with prune(model):
        pruned = model(**inputs).logits

    def end(*_: Any) -> None:
        raise ending

    with prune(model) as run:
        for call in (model, model.generate):
            hook = decoder_of(model).register_forward_pre_hook(end, prepend=True)
            with pytest.raises(ending):
                call(**inputs)
            hook.remove()
            agree(model(**text).logits, expected)
            assert not run.not_pruned
        agree(model(**inputs).logits, pruned)
    assert len(run.reports) == 1


@engine
@torch.no_grad()
def test_a_cache_goes_on_after_a_call_that_ended_before_it(family: Any, prune: AdaTP, agree: Agree) -> None:
    """Where nothing was filled yet, nothing is lost."""
    model, inputs = build(family), batch(family, ONE)
    cache, step = DynamicCache(config=model.config.get_text_config()), {"input_ids": torch.tensor([[5]])}
    with prune(model):
        model(**inputs, past_key_values=cache)
        expected = model(**step, past_key_values=copy.deepcopy(cache)).logits
        hook = decoder_of(model).layers[0].input_layernorm.register_forward_pre_hook(lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            model(**step, past_key_values=cache)
        hook.remove()
        agree(model(**step, past_key_values=cache).logits, expected)


@engine
@pytest.mark.parametrize("static", [False, True], ids=["dynamic", "static"])
@torch.no_grad()
def test_a_saved_cache_goes_on(family: Any, static: bool, prune: AdaTP, agree: Agree) -> None:
    model, inputs = build(family), batch(family, ONE)
    config, step = model.config.get_text_config(), {"input_ids": torch.tensor([[5]])}
    cache = StaticCache(config, 300) if static else DynamicCache(config=config)
    file = io.BytesIO()
    with prune(model):
        model(**inputs, past_key_values=cache)
        torch.save(cache, file)
        expected = model(**step, past_key_values=cache).logits
    file.seek(0)
    again = torch.load(file, weights_only=False)
    assert type(again) is type(cache)
    with pytest.raises(RuntimeError, match="inside `with AdaTP"):
        model(**step, past_key_values=again)
    with prune(model):
        agree(model(**step, past_key_values=again).logits, expected)


@engine
@pytest.mark.parametrize("part", ["model", "decoder", "layer"])
@torch.no_grad()
def test_a_copy_made_in_the_context_is_not_pruned(family: Any, part: str, prune: AdaTP, agree: Agree) -> None:
    """Not there, not afterwards; it can be pruned by itself."""
    model, inputs = build(family), batch(family, ONE)
    expected, before = model(**inputs).logits, vars(model).keys() - {"_compiled_call_impl"}
    with prune(model) as run:
        pruned = model(**inputs).logits
        if part == "model":
            twin = copy.deepcopy(model)
        else:
            twin = build(family)
            decoder = decoder_of(twin)
            if part == "layer":
                decoder.layers[0] = copy.deepcopy(decoder_of(model).layers[0])
            else:
                twin.base_model.language_model = copy.deepcopy(decoder_of(model))
        agree(twin(**inputs).logits, expected)
        assert len(run.reports) == 1
        if part == "model":
            assert vars(twin).keys() == before
        agree(model(**inputs).logits, pruned)
        with prune(twin) as own:
            agree(twin(**inputs).logits, pruned)
        assert len(own.reports) == 1
    agree(twin(**inputs).logits, expected)
    if part != "layer":
        config = decoder_of(twin).config
        assert all(getattr(module, "config", config) is config for module in decoder_of(twin).modules())


@engine
@pytest.mark.parametrize("positional", [False, True])
@torch.no_grad()
def test_the_decoder_called_by_itself_is_not_pruned(
    family: Any, positional: bool, prune: AdaTP, agree: Agree
) -> None:
    model, ids = build(family), torch.arange(1, 12)[None]
    decoder = decoder_of(model)

    def states() -> torch.Tensor:
        return (decoder(ids) if positional else decoder(input_ids=ids)).last_hidden_state

    expected = states()
    with prune(model) as run:
        model(**batch(family, ONE))
        agree(states(), expected)
    assert len(run.reports) == 1
