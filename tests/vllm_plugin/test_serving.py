"""What vLLM does around the plugin: caches, chunks, preemption, several videos, turns; no settings."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from engines import ALONE, BLOCK, Answered, Engine, answer_all, requests, scenes
from vllm import envs
from vllm.config import CUDAGraphMode

from adatp.adatp_steps.before_layers import kept_tokens
from adatp.integrations.vllm.configuration import refuse_what_loses_positions
from adatp.integrations.vllm.settings import SettingsError

RATE = 0.6
VIDEO_TOKEN = 91
FREE: dict[str, Any] = {"video_pruning_rate": RATE, "additional_config": {"adatp": {}}}
ASKED: dict[str, Any] = {
    "video_pruning_rate": RATE,
    # Every frame a segment, and relevance counts much: random weights make little of a question.
    "additional_config": {"adatp": {"question": True, "tau_s": 1.0, "tau_r": 0.2}},
}
FAMILIES = ["qwen2_5_vl", "qwen3_vl", "llava_onevision", "internvl"]
families = pytest.mark.parametrize("family", FAMILIES)
TOKENS = {"qwen2_5_vl": 8 * 16, "qwen3_vl": 8 * 16, "llava_onevision": 16 * 4, "internvl": 16 * 16}
"""Visual tokens of the clips."""


CHUNKS = {"max_num_batched_tokens": 24, "enable_chunked_prefill": True}
"""Prompts, even videos, are longer than a chunk."""
TIGHT = {
    "num_gpu_blocks_override": 20,
    "block_size": BLOCK,
    "max_model_len": 512,
    "disable_log_stats": False,
}


def near(one: torch.Tensor, other: torch.Tensor, within: float = 1e-4) -> bool:
    """Whether logits are the same but for the rounding of other shapes of batches."""
    return bool((one - other).abs().max() < within * other.abs().max())


def preemptions(engine: Engine) -> float:
    """How many requests have lost their place so far."""
    (metric,) = (each for each in engine.llm.get_metrics() if each.name == "vllm:num_preemptions")
    return float(metric.value)


def assert_near(expected: list[Answered], found: list[tuple[list[int], torch.Tensor, list[int]]]) -> None:
    """The same prompts and answers, and near logits."""
    for one, (ids, logits, tokens) in zip(expected, found, strict=True):
        assert one.ids == ids
        assert near(logits, one.logits)
        assert tokens[: len(one.tokens)] == one.tokens


@pytest.fixture(scope="module")
def results(engine: Callable[..., Engine]) -> Callable[..., list[Answered]]:
    """What an engine answers to each request alone, computed once."""
    found: dict[str, list[Answered]] = {}

    def answers(family: str, **options: Any) -> list[Answered]:
        key = repr((family, options))
        if key not in found:
            found[key] = answer_all(engine(family, **options, **ALONE))
        return found[key]

    return answers


@families
def test_everything_at_once_is_as_each_alone(
    family: str, engine: Callable[..., Engine], results: Callable[..., list[Answered]]
) -> None:
    """Prefix caching and chunked prefill are on.

    Requests share videos, and the second time most of each prompt is found: cached blocks end within videos.
    """
    single = results(family, **FREE)
    together = engine(family, **FREE, **CHUNKS, enable_prefix_caching=True, block_size=BLOCK)
    read = []
    for _ in range(2):
        together.seen.clear()
        found = together.answers(requests(family))
        assert_near(single, found)
        read.append(sum(positions.shape[-1] for positions in together.seen.positions))
    assert read[0] < sum(len(one.ids) for one in single)  # the rest was found
    assert read[1] < read[0] / 2


@families
def test_as_many_tokens_as_asked(family: str, results: Callable[..., list[Answered]]) -> None:
    kept = kept_tokens(TOKENS[family], 1 - RATE)
    # Besides: LLaVA's newline; of each of Qwen3-VL's eight steps a timestamp of two words, start and end; of
    # each of InternVL's sixteen frames a word, start and end, and new lines between.
    text = {"qwen2_5_vl": 0, "llava_onevision": 1, "qwen3_vl": 8 * 4, "internvl": 16 * 4 - 1}[family]
    for found, videos in zip(results(family, **FREE), (1, 1, 2, 1, 1), strict=True):
        assert {len(chosen) for chosen in found.chosen} <= {kept}  # none where vLLM remembers the video
        assert found.ids.count(VIDEO_TOKEN) == videos * (kept + text)


@families
def test_a_second_question_does_not_run_the_tower(family: str, engine: Callable[..., Engine]) -> None:
    """And each question has its own tokens, whatever vLLM remembers of the other one."""
    made = engine(family, **ASKED, enable_prefix_caching=True)
    (one, _, _), (other, videos, _) = requests(family)[:2]
    first = [made.answer(prompt, videos) for prompt in (one, other)]
    assert made.seen.encoded == 1
    assert len(made.seen.chosen) == 2
    assert made.seen.chosen[0] != made.seen.chosen[1]
    again = [made.answer(prompt, videos) for prompt in (one, other)]
    assert made.seen.encoded == 1
    assert len(made.seen.chosen) == 2  # vLLM remembers what was left
    for (_, before, _), (_, after, _) in zip(first, again, strict=True):
        assert near(after, before)
    made.answer(one, [scenes(9)])
    assert made.seen.encoded == 2


@pytest.mark.parametrize("family", ["qwen2_5_vl", "qwen3_vl"])
def test_graphs_of_the_tower_give_the_same(
    family: str, engine: Callable[..., Engine], results: Callable[..., list[Answered]]
) -> None:
    """Of images and videos. vLLM captures none with its own pruning."""
    single = results(family, **FREE)
    made = engine(family, **FREE, **ALONE, max_num_seqs=2)
    replayed = made.replay_graphs()
    assert_near(single, [made.answer(*request) for request in requests(family)])
    assert set(replayed) == {"image", "video"}


def test_graphs_of_the_tower_leave_the_question_its_cache(engine: Callable[..., Engine]) -> None:
    """By question videos are not replayed, so that a second question finds what the tower said."""
    made = engine("qwen2_5_vl", **ASKED, **ALONE, max_num_seqs=2)
    replayed = made.replay_graphs()
    (one, videos, _), (other, _, _) = requests("qwen2_5_vl")[:2]
    for prompt in (one, other):
        made.answer(prompt, videos)
    assert made.seen.encoded == 1
    assert not replayed


@families
def test_preempted_requests_are_answered_the_same(
    family: str, engine: Callable[..., Engine], results: Callable[..., list[Answered]]
) -> None:
    """There is room for the beginnings of the requests, and not for what they are to say."""
    single = results(family, **FREE)
    tight = engine(family, **FREE, **ALONE, **TIGHT)
    found = tight.answers(requests(family)[:4], tokens=120)
    assert preemptions(tight) > 0
    assert_near(single[:4], found)


def test_qwen3_5_in_chunks_and_together(engine: Callable[..., Engine]) -> None:
    """As each request alone, as far as bfloat16 shows it, the only type that vLLM takes for it on a CPU.

    `test_qwen3_5_as_on_hugging_face` has what other positions do to logits: more than is let pass here.
    """
    family, dtype = "qwen3_5", "bfloat16"
    single = answer_all(engine(family, **FREE, **ALONE, dtype=dtype))
    found = engine(family, **FREE, **ALONE, **CHUNKS, dtype=dtype).answers(requests(family))
    for one, (ids, logits, _) in zip(single, found, strict=True):
        assert one.ids == ids
        assert near(logits, one.logits, 0.05)


def test_text_is_where_vllm_has_it(results: Callable[..., list[Answered]]) -> None:
    """Nothing but dropped tokens is missing from the positions that vLLM gives an unpruned prompt.

    Of every request whose videos vLLM had not seen: their tokens were chosen as they were read.
    """
    compared = 0
    for whole, pruned in zip(results("qwen2_5_vl"), results("qwen2_5_vl", **FREE), strict=True):
        visual = (torch.tensor(whole.ids) == VIDEO_TOKEN).nonzero().squeeze(1)
        if TOKENS["qwen2_5_vl"] * len(pruned.chosen) != len(visual):
            continue
        kept = [
            visual[TOKENS["qwen2_5_vl"] * number + torch.tensor(chosen)]
            for number, chosen in enumerate(pruned.chosen)
        ]
        rows = torch.ones(len(whole.ids), dtype=torch.bool)
        rows[visual] = False
        rows[torch.cat(kept)] = True
        assert torch.equal(pruned.positions, whole.positions[:, rows])
        compared += 1
    assert compared >= 2


@families
def test_without_settings_vllm_is_as_without_the_plugin(
    family: str, checkpoint: Callable[[str], Path], results: Callable[..., list[Answered]], tmp_path: Path
) -> None:
    """To the bit, against a process that does not load it."""
    path = tmp_path / "answers"
    subprocess.run(
        [
            sys.executable,
            str(Path(__file__).with_name("engines.py")),
            family,
            str(checkpoint(family)),
            str(path),
        ],
        env={**os.environ, "VLLM_PLUGINS": "", "PYTHONPATH": os.pathsep.join(sys.path)},
        check=True,
    )
    for one, other in zip(results(family), torch.load(path, weights_only=False), strict=True):
        assert (one.ids, one.tokens) == (other.ids, other.tokens)
        assert torch.equal(one.logits, other.logits)
    assert results(family)[0].model.startswith("adatp.")
    assert torch.load(path, weights_only=False)[0].model.startswith("vllm.")


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


def _config(**changed: Any) -> Any:
    """The parts of vLLM's config that decide whether the model's own code runs."""
    mode = changed.get("graphs", CUDAGraphMode.FULL_AND_PIECEWISE)
    return SimpleNamespace(
        parallel_config=SimpleNamespace(
            pipeline_parallel_size=changed.get("stages", 1), enable_dbo=changed.get("overlap", False)
        ),
        compilation_config=SimpleNamespace(cudagraph_mode=mode),
        speculative_config=changed.get("draft"),
    )


@pytest.mark.parametrize(
    ("changed", "what"),
    [
        ({"draft": object()}, "speculative decoding"),
        ({"stages": 2}, "pipeline parallelism"),
        ({"overlap": True}, "dual batch overlap"),
        ({"graphs": CUDAGraphMode.FULL}, "graphs of whole prefills"),
        ({"broken": True}, "graphs that break at attention"),
    ],
)
def test_what_goes_past_the_code_that_corrects_positions_is_refused(
    changed: dict[str, Any], what: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(envs, "VLLM_USE_BREAKABLE_CUDAGRAPH", False, raising=False)
    refuse_what_loses_positions(_config())
    if "broken" in changed:
        monkeypatch.setattr(envs, "VLLM_USE_BREAKABLE_CUDAGRAPH", True)
    with pytest.raises(SettingsError, match=f"adatp: {what}.* does not go with pruned videos"):
        refuse_what_loses_positions(_config(**changed))
