"""What vLLM does around the plugin: caches, chunks, preemption, several videos, turns; no settings."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from engines import Engine, chat, clip

from adatp.adatp_steps.before_layers import kept_tokens

RATE = 0.6
FREE: dict[str, Any] = {"video_pruning_rate": RATE, "additional_config": {"adatp": {}}}
ASKED: dict[str, Any] = {"video_pruning_rate": RATE, "additional_config": {"adatp": {"question": True}}}
FAMILIES = ["qwen2_5_vl", "qwen3_vl", "llava_onevision"]
TOKENS = {"qwen2_5_vl": 16, "qwen3_vl": 16, "llava_onevision": 8 * 4}
"""Visual tokens of a clip of 8 frames."""
CAT, DOG = "what does the cat do ?", "which ball is red ?"


def image(seed: int = 0) -> np.ndarray[Any, Any]:
    return clip(seed, 1)[0]


def near(one: torch.Tensor, other: torch.Tensor) -> bool:
    """Whether logits are the same but for the rounding of other shapes of batches."""
    return bool((one - other).abs().max() < 1e-4 * other.abs().max())


def requests(family: str) -> list[Any]:
    """One video; another question; two videos; an image beside; a second turn."""
    turns = ("{video}\n" + CAT, "runs", DOG)
    return [
        (chat(family, "{video}\n" + CAT), [clip(0)], []),
        (chat(family, "{video}\n" + DOG), [clip(0)], []),
        (chat(family, "{video}\n{video}\n" + CAT), [clip(0), clip(1)], []),
        (chat(family, "{image}\n{video}\n" + CAT), [clip(1)], [image()]),
        (chat(family, *turns), [clip(0)], []),
    ]


@pytest.mark.parametrize("family", FAMILIES)
def test_everything_at_once_is_as_each_alone(family: str, engine: Callable[..., Engine]) -> None:
    """Prefix caching and chunked prefill are on, and prompts are longer than a chunk.

    The requests before fill the cache, so the second time most of each prompt is found there.
    """
    asked = requests(family)
    alone = engine(family, **FREE, enable_prefix_caching=False)
    single = [alone.answer(*request) for request in asked]
    small: dict[str, Any] = {"max_num_batched_tokens": 24, "block_size": 16}
    together = engine(family, **FREE, **small, enable_prefix_caching=True, enable_chunked_prefill=True)
    for _ in range(2):
        for (ids, logits, tokens), (others, first, said) in zip(single, together.answers(asked), strict=True):
            assert ids == others
            assert near(first, logits)
            assert tokens == said


@pytest.mark.parametrize("family", FAMILIES)
def test_as_many_tokens_as_asked(family: str, engine: Callable[..., Engine]) -> None:
    made = engine(family, **FREE, enable_prefix_caching=False)
    kept = kept_tokens(TOKENS[family], 1 - RATE)
    without = len(made.answer(chat(family, CAT))[0])
    text = {"qwen2_5_vl": 3, "llava_onevision": 2, "qwen3_vl": 1 + 4 * 4}[family]  # newlines, timestamps
    for request, videos in zip(requests(family)[:3], (1, 1, 2), strict=True):
        made.seen.clear()
        ids, _, _ = made.answer(*request)
        assert [len(chosen) for chosen in made.seen.chosen] in ([kept] * videos, [])  # or vLLM's own cache
        if request[0] == chat(family, "{video}\n" + CAT):
            assert len(ids) == without + kept + text


@pytest.mark.parametrize("family", ["qwen2_5_vl", "llava_onevision"])
def test_a_second_question_does_not_run_the_tower(family: str, engine: Callable[..., Engine]) -> None:
    """And each question has its own tokens, whatever vLLM remembers of the other one."""
    made = engine(family, **ASKED, enable_prefix_caching=True)
    prompts = [chat(family, "{video}\n" + question) for question in (CAT, DOG)]
    first = [made.answer(prompt, [clip(3)]) for prompt in prompts]
    assert made.seen.encoded == 1
    assert len(made.seen.chosen) == 2
    assert made.seen.chosen[0] != made.seen.chosen[1]
    again = [made.answer(prompt, [clip(3)]) for prompt in prompts]
    assert made.seen.encoded == 1
    assert len(made.seen.chosen) == 2  # vLLM remembers what was left
    for (_, one, _), (_, other, _) in zip(first, again, strict=True):
        assert near(one, other)
    made.answer(prompts[0], [clip(4)])
    assert made.seen.encoded == 2


def test_preempted_requests_are_answered_alike(engine: Callable[..., Engine]) -> None:
    """There is room for the beginnings of all requests, and not for what they are to say."""
    family = "qwen2_5_vl"
    asked = [(chat(family, "{video}\n" + CAT), [clip(seed)], []) for seed in range(4)]
    roomy = engine(family, **FREE, enable_prefix_caching=False)
    expected = [roomy.answer(*request, tokens=100) for request in asked]
    tight = engine(
        family,
        **FREE,
        enable_prefix_caching=False,
        num_gpu_blocks_override=20,
        block_size=16,
        max_model_len=256,
        disable_log_stats=False,
    )
    found = tight.answers(asked, tokens=100)
    preempted = [metric.value for metric in tight.llm.get_metrics() if metric.name == "vllm:num_preemptions"]
    assert preempted
    assert preempted[0] > 0
    for (_, logits, tokens), (_, first, said) in zip(expected, found, strict=True):
        assert near(first, logits)
        assert said[:20] == tokens[:20]


def test_text_is_where_vllm_has_it(engine: Callable[..., Engine]) -> None:
    """Nothing but dropped tokens is missing from the positions that vLLM gives an unpruned prompt."""
    family = "qwen2_5_vl"
    request = requests(family)[2]
    whole = engine(family, enable_prefix_caching=False)
    whole_ids, _, _ = whole.answer(*request, tokens=1)
    every = whole.seen.positions[0][:, : len(whole_ids)]
    pruned = engine(family, **FREE, enable_prefix_caching=False)
    ids, _, _ = pruned.answer(*request, tokens=1)
    found = pruned.seen.positions[0][:, : len(ids)]
    visual = (torch.tensor(whole_ids) == 91).nonzero().squeeze(1)
    kept = [visual[16 * number + torch.tensor(chosen)] for number, chosen in enumerate(pruned.seen.chosen)]
    rows = torch.ones(len(whole_ids), dtype=torch.bool)
    rows[visual] = False
    rows[torch.cat(kept)] = True
    assert torch.equal(found, every[:, rows])


@pytest.mark.parametrize("family", FAMILIES)
def test_without_settings_vllm_is_as_without_the_plugin(
    family: str, engine: Callable[..., Engine], monkeypatch: pytest.MonkeyPatch
) -> None:
    """To the bit. vLLM's own classes are put back for the comparison."""
    from vllm import ModelRegistry
    from vllm.model_executor.models import registry

    from adatp.integrations.vllm import ARCHITECTURES

    asked = requests(family)
    plugin = engine(family, enable_prefix_caching=False, seed=1)
    assert "adatp" in type(plugin.model).__module__
    ours = [plugin.answer(*request) for request in asked]
    taken = {name: ModelRegistry.models[name] for name in ARCHITECTURES}
    try:
        for name in ARCHITECTURES:
            module, kind = registry._MULTIMODAL_MODELS[name]
            ModelRegistry.register_model(name, f"vllm.model_executor.models.{module}:{kind}")
        vanilla = engine(family, enable_prefix_caching=False, seed=2)
        assert type(vanilla.model).__module__.startswith("vllm.")
        theirs = [vanilla.answer(*request) for request in asked]
    finally:
        ModelRegistry.models.update(taken)
    for (ids, logits, tokens), (others, first, said) in zip(ours, theirs, strict=True):
        assert (ids, tokens) == (others, said)
        assert torch.equal(logits, first)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"additional_config": {"adatp": {}}}, "adatp: say how much to drop"),
        ({**FREE, "additional_config": {"adatp": {"tau": 1}}}, "adatp: no setting 'tau'"),
    ],
)
def test_bad_settings_stop_vllm_at_the_start(
    options: dict[str, Any], message: str, engine: Callable[..., Engine]
) -> None:
    with pytest.raises(Exception, match=message):
        engine("qwen2_5_vl", **options)
