"""What is special about Nemotron-H Omni: its own dropping of tokens, its tower, its processor."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from transformers import DynamicCache

from adatp import AdaTP, PruningError, Session
from adatp.models import family_of
from families import batch, build
from flop_counting import counted
from more_families import MORE, NemotronHOmni
from more_processors import PROCESSORS
from prompts import frames
from suite import LATE, ONE, dropped, shape_of

pytestmark = pytest.mark.skipif(NemotronHOmni not in MORE, reason="this transformers does not have the type")


@torch.no_grad()
def test_a_model_that_drops_tokens_itself_is_refused_until_it_does_not() -> None:
    """Efficient Video Sampling shortens the prompt in the model, so no layout of the prompt is true."""
    config = NemotronHOmni.config()
    config.video_pruning_rate = 0.7
    torch.manual_seed(0)
    model, inputs = NemotronHOmni.model_class(config).eval(), batch(NemotronHOmni, ONE)
    assert model(**inputs).logits.shape[1] < inputs["input_ids"].shape[1]
    with pytest.raises(PruningError, match=r"drops 70% of a video's tokens itself.*video_pruning_rate = 0 "):
        AdaTP()(model)
    model.video_pruning_rate = 0
    with LATE(model) as run:
        assert model(**inputs).logits.shape[1] == inputs["input_ids"].shape[1]
    assert dropped(run)


def test_what_the_tower_and_the_projector_cost() -> None:
    config = NemotronHOmni.config()
    config.vision_config._attn_implementation = "eager"
    model: Any = NemotronHOmni.model_class(config).eval()
    pixels, ours = torch.randn(2, 3, 6, 32, 48), family_of("nemotron_h_omni")
    grid = ours.grid(config, 6, 32, 48)
    assert grid == (3, 4, 6)
    run = counted(lambda: model.get_video_features(pixels))
    assert run == ours.vision_flops(config, [grid] * 2)


def test_a_session_says_the_same_and_goes_on_with_it() -> None:
    config = NemotronHOmni.config()
    config.video_pruning_rate = 0.5
    torch.manual_seed(0)
    session = Session.of(NemotronHOmni.model_class(config).eval(), PROCESSORS[NemotronHOmni]())
    prompt = session.prepare(frames(4, 16, 24), "which dog runs ?")
    with pytest.raises(PruningError, match=r"drops 50% of a video's tokens itself"):
        session.answer(prompt, AdaTP(flops=0.8), max_new_tokens=1)
    session.model.video_pruning_rate = 0
    assert session.answer(prompt, AdaTP(flops=0.8), max_new_tokens=1).flops_ratio < 1


@torch.no_grad()
def test_layers_without_a_cache_are_not_in_its_books() -> None:
    """MLPs get what is left, and the cache remembers tokens of the layers alone that hold some."""
    model = build(NemotronHOmni)
    cache = DynamicCache(config=model.config.get_text_config())
    with LATE(model):
        model(**batch(NemotronHOmni, ONE), cache=cache)
    held: dict[int, Any] = cache.held  # type: ignore[attr-defined]
    assert {*held} == {*shape_of(model).key_layers[1:]}  # the first comes before any cut
