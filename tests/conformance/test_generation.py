"""Beams, sampling and assisted decoding."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from adatp import AdaTP
from agreement import Agree
from families import (
    FAMILIES,
    InternVL,
    Prompt,
    batch,
    build,
)
from more_families import Ernie45VL
from oracle import masked_logits, recorded
from rounding import limit
from suite import (
    GREEDY,
    ONE,
    RAGGED,
    REPEATED,
    STEPS,
    VERSION,
    continued,
    dropped,
    feature,
    generated_logits,
    skip_broken_cache,
)


@feature("beams", REPEATED)
@pytest.mark.parametrize("prompts", [ONE, RAGGED], ids=["one", "ragged"])
@pytest.mark.parametrize("cache", [None, "static"], ids=["dynamic", "static"])
def test_beams(family: Any, prompts: list[Prompt], cache: str | None, prune: AdaTP, agree: Agree) -> None:
    """The beams that come out score what the masked run gives them, however rows moved on the way."""
    if family is InternVL and VERSION <= (5, 16):
        pytest.skip("transformers up to 5.16 gives beams other frames than the prompt's, pruned or not")
    skip_broken_cache(family, cache)
    model, inputs = build(family), batch(family, prompts)
    with prune(model) as run:
        output = model.generate(
            **inputs,
            **{**GREEDY, "output_logits": False, "output_scores": True},
            num_beams=3,
            length_penalty=0.0,
            cache_implementation=cache,
        )
    assert dropped(run)
    with recorded(model) as record:  # the sequences that came out, unpruned, in one call
        model(**continued(inputs, output.sequences))
    kept = [layer[::3] for layer in run.report.kept]
    logits = masked_logits(model, record, kept, inputs["attention_mask"].bool())[:, -STEPS - 1 : -1]
    expected = logits.log_softmax(-1).gather(2, output.sequences[:, -STEPS:, None]).sum((1, 2))
    agree(output.sequences_scores, expected, within=STEPS * limit(family))


@feature("sampling", REPEATED)
@pytest.mark.parametrize("prompts", [ONE, RAGGED], ids=["one", "ragged"])
def test_sampling_and_return_sequences(
    family: Any, prompts: list[Prompt], prune: AdaTP, agree: Agree
) -> None:
    model, inputs = build(family), batch(family, prompts)
    with prune(model) as run, recorded(model) as record:
        torch.manual_seed(0)
        model.generate(**inputs, **{**GREEDY, "do_sample": True}, num_return_sequences=2)
    assert dropped(run)
    real = inputs["attention_mask"].bool().repeat_interleave(2, 0)
    agree.masked(model, record, run.report.kept, real, within=limit(family))


@pytest.mark.parametrize(
    "how",
    [{"num_beams": 2}, {"num_return_sequences": 2, "do_sample": True}, {"prefill_chunk_size": 16}],
    ids=str,
)
@pytest.mark.parametrize("family", [f for f in FAMILIES if f.compresses], ids=lambda family: family.name)
def test_transformers_itself_can_not_repeat_or_cut_a_compressed_video(
    family: Any, how: dict[str, Any]
) -> None:
    """Once it can, the family is found."""
    model, inputs = build(family), batch(family, ONE)
    with pytest.raises((IndexError, RuntimeError, ValueError)):
        model.generate(**inputs, **{**GREEDY, **how})


@pytest.mark.skipif(Ernie45VL.model_class is None, reason="this transformers has no ERNIE 4.5 VL")
def test_transformers_itself_can_not_assist_ernie() -> None:
    """Once it names experts for a draft's tokens, the family has the feature."""
    model, inputs = build(Ernie45VL), batch(Ernie45VL, ONE)
    with pytest.raises(IndexError, match="The shape of the mask"):
        model.generate(**inputs, **GREEDY, assistant_model=build(Ernie45VL))


@feature("assisted")
@pytest.mark.parametrize("drafts", ["lookup", "assistant"])
def test_assisted_decoding(family: Any, drafts: str, prune: AdaTP, agree: Agree) -> None:
    """Several tokens a step, those that are refused taken back."""
    model, inputs, assistant = build(family), batch(family, ONE), build(family)
    with torch.no_grad():
        for parameter in assistant.parameters():
            parameter.add_(0.02 * parameter.std() * torch.randn(parameter.shape))
    lookup = {"prompt_lookup_num_tokens": 3, "max_matching_ngram_size": 1}
    with prune(model) as run, recorded(model) as steps:
        output = model.generate(
            **inputs, **GREEDY, **(lookup if drafts == "lookup" else {"assistant_model": assistant})
        )
    assert dropped(run)
    if drafts == "assistant":  # lookup finds nothing in some of these prompts
        assert sum(part.shape[1] for part in steps.embeds) > output.sequences.shape[1] - 1  # some taken back
    with recorded(model) as record:  # the sequence that came out, unpruned, in one call
        model(**continued(inputs, output.sequences))
    logits = masked_logits(model, record, run.report.kept, inputs["attention_mask"].bool())
    agree(generated_logits(output), logits[:, -STEPS - 1 : -1], within=limit(family))
