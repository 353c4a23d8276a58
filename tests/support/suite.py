"""What the conformance tests share: the features they show, whom they are asked of, prompts and settings."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
import transformers
from torch import Tensor

from adatp import AdaTP
from adatp.flops import DecoderShape
from families import ENGINE, FAMILIES, IMAGE, VIDEO, Gemma3, Prompt, Qwen35, VideoLlama3Whole
from more_families import MORE

VERSION = tuple(map(int, transformers.__version__.split(".")[:2]))

EVERY = [*FAMILIES, *MORE]
"""Families that the suite asks everything of. Of the second part it runs few settings of each test."""
REPEATED = [*EVERY, VideoLlama3Whole]

FEATURES = {
    "keep all": "keeping every token changes no bit of what `generate` and a single call give",
    "drop": "dropping equals, in prefill and decode, complete caches whose dropped tokens each layer's own "
    "mask hides; eager, SDPA, flash attention's conventions; dynamic and static caches",
    "batch": "rows of a left-padded batch equal their single runs, rows of equal length need no mask",
    "scores": "the scores that tokens are chosen by are rows of eager attention",
    "tower": "methods that choose by the vision tower's attention get what each token received there",
    "merge": "averaging tokens equals averaging them in a masked run",
    "beams": "beam search",
    "sampling": "sampling, several return sequences",
    "turns": "several turns on one cache, with another video in a later one",
    "videos": "several videos in one prompt",
    "images": "images beside a video, all of them kept",
    "assisted": "prompt lookup and assistant models; the first draft, read with the prompt, has a say in "
    "what is kept",
    "outputs": "`labels`, hidden states, indexed `logits_to_keep`, tuples: all by positions of the prompt",
    "cache": "copies of a cache go on by themselves",
    "leaving": "on leaving, even by an exception, the model is what it was; nothing of a request is held",
    "bfloat16": "keeping all changes no bit, dropping equals masking within vanilla's own rounding",
    "int8": "the same with decoder layers whose linear weights have eight bits",
    "offload": "the same where accelerate has the last layers on disk and hands arguments from part to part",
    "warned": "a prompt that comes in chunks, or ends with its video, is not pruned, and a warning says so",
}
"""Columns of the page of families, and what each means."""

LATE, EARLY = AdaTP(flops=0.5, early="off"), AdaTP(flops=0.45, early="on", survive=0.5)
ONE = [Prompt()]
RAGGED = [Prompt(seed=1), Prompt(seed=2, before=9, question=11), Prompt(seed=3, question=4)]
EQUAL = [Prompt(seed=1), Prompt(seed=2), Prompt(seed=3)]
STEPS = 5
"""New tokens. The first comes from the prompt. The second is the first to read a pruned cache, and makes
positions for 64 and more to come (``CacheSlots.until``). The third is the first to find them made, and each
later one does what the third did.
"""
GREEDY: dict[str, Any] = {
    "do_sample": False,
    "min_new_tokens": STEPS,
    "max_new_tokens": STEPS,
    "suppress_tokens": [IMAGE, VIDEO, 94, 95],
    "return_dict_in_generate": True,
    "output_logits": True,
}

batches = pytest.mark.parametrize("prompts", [ONE, RAGGED, EQUAL], ids=["one", "ragged", "equal"])


def feature(
    name: str, among: Sequence[Any] = EVERY, *, every_attention: bool = False
) -> Callable[[Any], Any]:
    """A test of this feature, of every family that has it, and with every attention of each if asked."""
    assert FEATURES[name]
    having = [family for family in among if name not in family.lacks()]
    of_families = pytest.mark.parametrize("family", having, ids=lambda family: family.name)
    pairs = [
        pytest.param(family, attention, id=f"{family.name}-{attention}")
        for family in having
        for attention in family.attentions
    ]
    of_pairs = pytest.mark.parametrize(("family", "attention"), pairs)
    return lambda test: pytest.mark.feature(name)((of_pairs if every_attention else of_families)(test))


engine = pytest.mark.parametrize("family", [*ENGINE, Qwen35], ids=lambda family: family.name)


def skip_broken_cache(family: Any, cache: str | None) -> None:
    """Static ones that transformers itself could not fill yet."""
    if cache == "static" and issubclass(family, Qwen35) and VERSION <= (5, 12):
        pytest.skip("transformers up to 5.12 has no static cache beside states, pruned or not")
    if cache == "static" and not family.static_cache:
        pytest.skip(
            "transformers' masks for a static cache forget which tokens see each other, pruned or not"
        )
    if cache == "static" and family is Gemma3 and VERSION == (5, 16):
        pytest.skip("transformers 5.16 writes beyond the end of a static cache's window, pruned or not")


BY_TOKEN = ("mm_token_type_ids", "token_type_ids", "moe_mm_token_type_ids")
"""Inputs that say something of each token."""


def shape_of(model: Any) -> DecoderShape:
    return DecoderShape.from_config(model.config.get_text_config())


def dropped(run: Any) -> bool:
    """Whether a run of ``LATE`` or ``EARLY`` dropped tokens of every sample, and where it was to."""
    early = [
        n < full for full, n in zip(run.report.prompt_visual_tokens, run.report.visual_tokens[0], strict=True)
    ]
    late = [n < full for full, n in zip(*[run.report.visual_tokens[i] for i in (0, -1)], strict=True)]
    return all(late) and all(early) == any(early) == (run.method.early == "on")


def generated_logits(output: Any) -> Tensor:
    """(B, STEPS, vocabulary); ``generate`` has rounded them to float32."""
    return torch.stack(output.logits, 1)


def continued(inputs: dict[str, Tensor], sequences: Tensor) -> dict[str, Tensor]:
    """Inputs of one call over the prompts and what was generated after them."""
    new = sequences.shape[1] - inputs["input_ids"].shape[1]
    mask = torch.nn.functional.pad(inputs["attention_mask"], (0, new), value=1)
    more = {"input_ids": sequences, "attention_mask": mask}
    for name in BY_TOKEN:
        if name in inputs:
            more[name] = torch.nn.functional.pad(inputs[name], (0, new))
    return {**inputs, **more}
