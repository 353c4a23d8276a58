"""What holds for every model family: exactness of keeping all, of dropping, of batches, and of leaving."""

from __future__ import annotations

import copy
import gc
import inspect
import sys
import weakref
from contextlib import nullcontext
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import pytest
import torch
import transformers
from torch import Tensor
from transformers import DynamicCache, StaticCache

import fake_flash
from adatp import AdaTP
from adatp.flops import layer_types
from adatp.methods import METHODS, GridError
from adatp.methods.adatp import AdaTPPlan
from adatp.methods.base import Method, Prefill
from adatp.methods.vanilla import Vanilla
from adatp.plan import Selection
from adatp.pruner import PruningError
from agreement import Agree
from families import (
    ENGINE,
    FAMILIES,
    IMAGE,
    VIDEO,
    Gemma3,
    InternVL,
    Prompt,
    Qwen3VL,
    Qwen25VL,
    Qwen35,
    VideoLlama3,
    VideoLlama3Whole,
    batch,
    build,
)
from oracle import hidden_columns, masked_logits, masking_error, recorded
from suite import (
    EQUAL,
    GREEDY,
    LATE,
    ONE,
    RAGGED,
    STEPS,
    batches,
    continued,
    dropped,
    engine,
    feature,
    generated_logits,
)

VERSION = tuple(map(int, transformers.__version__.split(".")[:2]))


@feature("keep all", every_attention=True)
@batches
def test_keep_all_is_bit_identical(family: Any, attention: str, prompts: list[Prompt], agree: Agree) -> None:
    model, inputs = build(family, attention), batch(family, prompts)
    vanilla = model.generate(**inputs, **GREEDY)
    whole = model(**inputs).logits
    with AdaTP(flops=1.0)(model) as run:
        kept = model.generate(**inputs, **GREEDY)
        agree(model(**inputs).logits, whole)
    agree(kept.sequences, vanilla.sequences)
    agree(generated_logits(kept), generated_logits(vanilla))
    assert run.report.flops_ratio == 1
    for layer in run.report.kept:
        assert all(map(torch.equal, layer, run.report.kept[0]))


def dropping_cases() -> list[Any]:
    """Every combination where engine and families meet first, for the others each value once at least."""
    # Transformers has no static cache for flash attention.
    settings = [
        ("eager", None),
        ("eager", "static"),
        ("sdpa", None),
        ("sdpa", "static"),
        (fake_flash.NAME, None),
    ]
    every = [(*setting, dtype) for setting in settings for dtype in (torch.float32, torch.float64)]
    some = [
        ("eager", None, torch.float64),
        ("sdpa", "static", torch.float64),
        ("sdpa", None, torch.float32),
        (fake_flash.NAME, None, torch.float32),
    ]
    return [
        pytest.param(family, *case, id="-".join([family.name, *map(str, case)]))
        for family in FAMILIES
        for case in (every if family in (*ENGINE, Qwen3VL, Qwen35) else some)
        if case[0] in family.attentions
    ]


@pytest.mark.feature("drop")
@batches
@pytest.mark.parametrize(("family", "attention", "cache", "dtype"), dropping_cases())
def test_dropping_equals_masking(
    family: Any,
    attention: str,
    prompts: list[Prompt],
    cache: str | None,
    dtype: torch.dtype,
    monkeypatch: pytest.MonkeyPatch,
    prune: AdaTP,
    agree: Agree,
) -> None:
    skip_broken_cache(family, cache)
    if dtype == torch.float64:
        no_float32_islands(family, monkeypatch)
    model, inputs = build(family, attention, dtype), batch(family, prompts, dtype)
    with prune(model) as run, recorded(model) as record:
        model.generate(**inputs, **GREEDY, cache_implementation=cache)
    assert dropped(run)
    real = inputs["attention_mask"].bool()
    agree.masked(model, record, run.report.kept, real, within=2e-5 if dtype == torch.float32 else 1e-10)


def skip_broken_cache(family: Any, cache: str | None) -> None:
    """Static ones that transformers itself could not fill yet."""
    if cache == "static" and issubclass(family, Qwen35) and VERSION <= (5, 12):
        pytest.skip("transformers up to 5.12 has no static cache beside states, pruned or not")
    if cache == "static" and family is Gemma3 and VERSION == (5, 16):
        pytest.skip("transformers 5.16 writes beyond the end of a static cache's window, pruned or not")


def no_float32_islands(family: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Transformers norms, softmaxes and updates states in float32 whatever the precision asked for."""
    modeling = sys.modules[type(build(family).get_decoder()).__module__]

    class Lifted:
        float = float32 = torch.float64

        def __getattr__(self, name: str) -> Any:
            return getattr(torch, name)

    def lifted(self: Tensor) -> Tensor:
        return self.double() if sys._getframe(1).f_globals is vars(modeling) else to_float(self)

    to_float = Tensor.float
    monkeypatch.setattr(modeling, "torch", Lifted())
    monkeypatch.setattr(Tensor, "float", lifted)


@feature("batch", every_attention=True)
def test_a_padded_batch_equals_its_single_runs(
    family: Any, attention: str, prune: AdaTP, agree: Agree
) -> None:
    model, inputs = build(family, attention), batch(family, RAGGED)
    with prune(model) as run:
        together = model.generate(**inputs, **GREEDY)
        joint = run.report
        for b, prompt in enumerate(RAGGED):
            alone = model.generate(**batch(family, [prompt]), **GREEDY)
            pads = len(inputs["input_ids"][b]) - int(inputs["attention_mask"][b].sum())
            for together_kept, alone_kept in zip(joint.kept, run.report.kept, strict=True):
                assert torch.equal(together_kept[b] - pads, alone_kept[0])
            assert torch.equal(together.sequences[b, -STEPS:], alone.sequences[0, -STEPS:])
            agree(generated_logits(together)[b], generated_logits(alone)[0], within=1e-5)


@feature("batch")
def test_equal_prompts_keep_the_mask_free_kernel(family: Any, prune: AdaTP) -> None:
    """Wherever transformers runs it unpruned: everywhere, but for Gemma 3's pictures and windows."""
    model, inputs = build(family), batch(family, EQUAL)
    masked: list[bool] = []
    for layer in model.get_decoder().layers:  # what they get in the end
        mixer = layer.self_attn if hasattr(layer, "self_attn") else layer.linear_attn
        mixer.register_forward_pre_hook(
            lambda _, args, kwargs: masked.append(kwargs["attention_mask"] is not None), with_kwargs=True
        )
    model.generate(**inputs, **GREEDY)
    vanilla, masked[:] = [*masked], []
    with prune(model) as run:
        model.generate(**inputs, **GREEDY)
    assert dropped(run)
    assert len(masked) == len(family.layers) * STEPS
    assert masked == vanilla
    sliding = sum(kind == "sliding_attention" for kind in layer_types(model.get_decoder().config))
    assert sum(masked) == (len(family.layers) + (STEPS - 1) * sliding if sliding else 0)


@pytest.fixture
def first_scores(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Tensor, Tensor, Tensor]]:
    """Query rows, tokens and scores that the first cut of each sample is made by, in order."""
    seen: list[tuple[Tensor, Tensor, Tensor]] = []
    select = AdaTPPlan.select

    def spy(
        plan: AdaTPPlan, layer: int, sample: int, alive: Tensor, scores: Tensor, hidden: Tensor
    ) -> Selection:
        if layer == min(plan.cuts - {0}):
            seen.append((plan.queries[sample], alive, scores))
        return select(plan, layer, sample, alive, scores, hidden)

    monkeypatch.setattr(AdaTPPlan, "select", spy)
    return seen


def attentions_scored_first(run: Any, output: Any) -> Tensor:
    """Of an eager run's attentions those of the layer that a pruned run scores first."""
    scored = min(run.method.scored_layers(run.shape))
    return output.attentions[run.shape.key_layers.index(scored)]  # linear attention has none


@feature("scores", every_attention=True)
@torch.no_grad()
def test_scores_equal_eager_rows(
    family: Any, attention: str, first_scores: Any, prune: AdaTP, agree: Agree
) -> None:
    """What the layer scored first sees is known: its scores are rows of eager attention."""
    inputs = batch(family, RAGGED)
    with prune(build(family, attention)) as run:
        run.model(**inputs)
    eager, real = build(family, "eager"), inputs["attention_mask"].bool()
    types = inputs.get("token_type_ids")
    with hidden_columns(eager, run.report.kept, real.shape[1], real, types):
        rows = attentions_scored_first(run, eager(**inputs, output_attentions=True))
    assert len(first_scores) == len(RAGGED)
    for b, (queries, alive, scores) in enumerate(first_scores):
        expected = rows[b][:, queries].mean((0, 1))[alive]
        agree(scores, expected, within=1e-5)
        neighbours = rows[b][:, queries - 1].mean((0, 1))[alive]
        assert (scores - neighbours).abs().max() > 1e-4  # or any rows would do


@feature("scores", every_attention=True)
@torch.no_grad()
def test_scores_of_a_second_turn_equal_eager_rows(
    family: Any, attention: str, first_scores: Any, agree: Agree
) -> None:
    first, second = batch(family, [Prompt(seed=1)]), batch(family, [Prompt(frames=6, seed=7)])
    turns = first, family.next_turn(first, second)
    model, eager, run = build(family, attention), build(family, "eager"), None
    length = second["input_ids"].shape[1]
    for pruned in (True, False):
        llm = model if pruned else eager
        cache = DynamicCache(config=llm.config.get_text_config())
        with LATE(llm) if pruned else nullcontext(run) as run:
            llm(**turns[0], past_key_values=cache)
            output = llm(**turns[1], past_key_values=cache, output_attentions=not pruned)
    queries, alive, scores = first_scores[1]
    expected = attentions_scored_first(run, output)[0][:, queries].mean((0, 1))[-length:][alive]
    agree(scores, expected, within=1e-5)


@feature("beams", [*FAMILIES, VideoLlama3Whole])
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
    agree(output.sequences_scores, expected, within=1e-4)


@feature("sampling", [*FAMILIES, VideoLlama3Whole])
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
    agree.masked(model, record, run.report.kept, real, within=1e-5)


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


@pytest.mark.parametrize("setting", [{}, {"adaptive": True}, {"global_debias": False}], ids=str)
@pytest.mark.parametrize("relevance", ["embedding", "attention", "none"])
def test_frames_of_any_number_of_tokens(
    relevance: Any, setting: dict[str, Any], prune: AdaTP, agree: Agree
) -> None:
    """Even of none: the last frame's, and all those of a segment."""
    model, inputs = build(VideoLlama3), batch(VideoLlama3, [Prompt(frames=12)])
    mask = inputs["video_compression_mask"].view(12, 16)
    mask[:5] = True
    mask[[6, 11]] = False
    left = (mask.sum(1).tolist(), inputs["input_ids"][0].tolist())
    ids = [token for token in left[1] if token != VIDEO]
    times = [place for place, token in enumerate(ids) if 80 <= token < 88]
    for place, count in sorted(zip(times, left[0], strict=True), reverse=True):
        ids[place + 1 : place + 1] = [VIDEO] * count
    inputs |= {"input_ids": torch.tensor([ids]), "attention_mask": torch.ones(1, len(ids), dtype=torch.int64)}
    method = replace(prune, relevance=relevance, tau_s=1, **setting)
    with method(model) as run, recorded(model) as record:
        model.generate(**inputs, **GREEDY)
    assert run.report.flops_ratio <= method.flops
    assert dropped(run)
    assert run.report.prompt_visual_tokens == [int(mask.sum())]
    agree.masked(model, record, run.report.kept, inputs["attention_mask"].bool(), within=2e-5)
    [notes] = run.report.notes
    assert notes["segments"] == list(range(12))
    if notes["frame_relevance"] is not None:
        assert notes["segment_relevance"] == pytest.approx(notes["frame_relevance"])
        assert notes["frame_relevance"][11] == 0
        assert len(set(notes["segment_weights"])) > 2
    [kept] = run.layouts[0].on_grid(run.report.kept[-1][0])
    assert not (kept.flatten(1) & ~mask).any()
    assert 0 < kept.sum() == run.report.visual_tokens[-1][0]


@pytest.mark.parametrize(
    "method", [kind for kind in METHODS.values() if kind.name != "adatp"], ids=lambda m: m.name
)
def test_methods_for_whole_frames_refuse_others_before_the_decoder_runs(method: Any) -> None:
    """All others prune them."""
    model, inputs = build(VideoLlama3), batch(VideoLlama3, [Prompt(frames=8), Prompt(frames=12)])
    whole = batch(VideoLlama3Whole, [Prompt(frames=8)])
    chosen = method() if method is Vanilla else method(flops=0.75)
    with chosen(model) as run, recorded(model) as record:
        if method.whole_frames:
            with pytest.raises(
                GridError, match=f"^{method.name} needs .* one of adatp, vanilla, .*visionzip"
            ):
                model(**inputs)
            assert not record.logits
        else:
            model(**inputs)
            assert all(
                low < high for low, high in zip(*[run.report.visual_tokens[i] for i in (-1, 0)], strict=True)
            ) or (method is Vanilla or run.report.visual_tokens[0] < run.report.prompt_visual_tokens)
            assert method is Vanilla or run.report.flops_ratio <= 0.75
        model(**whole)
    assert method is Vanilla or run.report.flops_ratio <= 0.75
    if method.whole_frames:
        with replace(chosen, flops=1.0)(model):
            model(**inputs)


@feature("turns", every_attention=True)
@pytest.mark.parametrize("video", [False, True], ids=["text", "another-video"])
def test_a_second_turn_on_one_cache(
    family: Any, attention: str, video: bool, prune: AdaTP, agree: Agree
) -> None:
    model, first = build(family, attention), batch(family, [Prompt(seed=1)])
    second = family.next_turn(first, batch(family, [Prompt(frames=6, seed=7)]))
    if not video:
        second = {"input_ids": second["input_ids"][:, -7:]}
    cache = DynamicCache(config=model.config.get_text_config())
    with prune(model) as run, recorded(model) as record:
        model(**first, past_key_values=cache)
        output = model(**second, past_key_values=cache)
        assert output.logits.shape[1] == second["input_ids"].shape[1]
        model(input_ids=torch.tensor([[17]]), past_key_values=cache)
    assert len(run.reports) == 1 + video
    assert run.report.decode_steps == (1 if video else 8)  # what is read behind the video
    kept = [[*layer] for layer in run.reports[0].kept]
    length = first["input_ids"].shape[1]
    if video:
        assert run.report.visual_tokens[-1] < run.report.visual_tokens[0]
        length += second["input_ids"].shape[1]
        kept = [
            [torch.cat(both)] for both in zip(*[[b for (b,) in r.kept] for r in run.reports], strict=True)
        ]
    agree.masked(model, record, kept, torch.ones(1, length, dtype=torch.bool), within=1e-5)


@torch.no_grad()
def test_a_second_video_for_several_prompts_at_once_is_not_pruned_behind_a_state(
    prune: AdaTP, agree: Agree
) -> None:
    """Its fillers would lie between a sample's state and its next token."""
    model = build(Qwen35)
    first, second = batch(Qwen35, EQUAL), batch(Qwen35, [Prompt(frames=6, seed=n) for n in (7, 8, 9)])
    second.pop("attention_mask")
    cache = DynamicCache(config=model.config.get_text_config())
    with prune(model) as run, recorded(model) as record:
        model(**first, past_key_values=cache)
        with pytest.warns(UserWarning, match="not pruned: linear attention can't go on with several prompts"):
            model(**second, past_key_values=cache)
    assert len(run.reports) == 1
    agree.masked(model, record, run.report.kept, first["attention_mask"].bool(), within=1e-5)


@engine
@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@torch.no_grad()
def test_a_cache_that_the_decoder_made_itself_goes_on(
    family: Any, attention: str, prune: AdaTP, agree: Agree
) -> None:
    model, inputs = build(family, attention), batch(family, ONE)
    with prune(model) as run, recorded(model) as record:
        cache = model(**inputs).past_key_values
        for word in (17, 18):
            model(input_ids=torch.tensor([[word]]), past_key_values=cache)
    assert dropped(run)
    assert run.report.decode_steps == 2
    agree.masked(model, record, run.report.kept, inputs["attention_mask"].bool(), within=1e-5)


@feature("cache")
@torch.no_grad()
def test_a_copied_cache_goes_on_by_itself(family: Any, prune: AdaTP, agree: Agree) -> None:
    model, inputs = build(family), batch(family, RAGGED)
    cache = DynamicCache(config=model.config.get_text_config())
    mask = torch.cat([inputs["attention_mask"], torch.ones(3, 1, dtype=torch.int64)], 1)
    position = torch.full((3, 1), 50)
    step = {"input_ids": torch.tensor([[5], [6], [7]]), "attention_mask": mask}
    step["position_ids"] = family.position(position)
    with prune(model):
        model(**inputs, past_key_values=cache)
        twin = copy.deepcopy(cache)
        expected = model(**step, past_key_values=cache).logits
        cache.kept.clear()
        agree(model(**step, past_key_values=twin).logits, expected)


@pytest.mark.parametrize(
    ("family", "change"),
    [
        pytest.param(family, change, id=f"{family.name}-{change}")
        for family in (*ENGINE, Qwen35)
        for change in ("reorder", "select", "repeat")
        if family is not Qwen35 or change == "reorder"  # transformers' states can't be selected or repeated
    ],
)
@torch.no_grad()
def test_a_cache_whose_rows_move_remembers_them(family: Any, change: str, prune: AdaTP, agree: Agree) -> None:
    """As beam search does, but between samples that keep different tokens."""
    model, inputs = build(family), batch(family, RAGGED)
    cache = DynamicCache(config=model.config.get_text_config())

    def step(order: list[int]) -> Tensor:
        mask = torch.nn.functional.pad(inputs["attention_mask"], (0, 1), value=1)[order]
        if family.multimodal_rope:
            model.model.rope_deltas = torch.zeros(1, 1, dtype=torch.int64)
        position = family.position(torch.full((len(order), 1), 50))
        words = torch.tensor([[5], [6], [7]])[order]
        return model(
            input_ids=words, attention_mask=mask, position_ids=position, past_key_values=cache
        ).logits

    with prune(model):
        model(**inputs, past_key_values=cache)
        twin = copy.deepcopy(cache)
        expected = step([0, 1, 2])
        cache = twin
        order = {"reorder": [2, 0, 1], "select": [2, 1], "repeat": [0, 0, 1, 1, 2, 2]}[change]
        if change == "reorder":
            cache.reorder_cache(torch.tensor(order))
        elif change == "select":
            cache.batch_select_indices(torch.tensor(order))
        else:
            cache.batch_repeat_interleave(2)
        agree(step(order), expected[order], within=1e-5)


@engine
@pytest.mark.parametrize("static", [False, True], ids=["dynamic", "static"])
@torch.no_grad()
def test_a_pruned_cache_looks_like_a_whole_one(family: Any, static: bool, prune: AdaTP) -> None:
    """Transformers numbers positions and sizes masks by it."""
    model, inputs = build(family), batch(family, RAGGED)
    config = model.config.get_text_config()
    whole, pruned = (StaticCache(config, 256) if static else DynamicCache(config=config) for _ in range(2))
    model(**inputs, past_key_values=whole)
    with prune(model) as run:
        model(**inputs, past_key_values=pruned)
    for layer in {0, *run.shape.key_layers}:
        assert pruned.get_seq_length(layer) == whole.get_seq_length(layer) == inputs["input_ids"].shape[1]
        for new in (1, 5):
            assert pruned.get_mask_sizes(new, layer) == whole.get_mask_sizes(new, layer)


@engine
@torch.no_grad()
def test_a_pruned_cache_is_refused_outside(family: Any, prune: AdaTP) -> None:
    model, inputs = build(family), batch(family, ONE)
    cache = DynamicCache(config=model.config.get_text_config())
    with prune(model):
        model(**inputs, past_key_values=cache)
    twin, step = copy.deepcopy(cache), {"input_ids": torch.tensor([[5]])}
    with pytest.raises(RuntimeError, match="inside `with AdaTP"):
        model(**step, past_key_values=cache)
    with prune(model):  # and the refused call has left nothing in it
        logits = [model(**step, past_key_values=each).logits for each in (cache, twin)]
    assert torch.equal(*logits)


@feature("outputs", every_attention=True)
def test_outputs_stand_at_their_positions(family: Any, attention: str, prune: AdaTP, agree: Agree) -> None:
    model, inputs = build(family, attention), batch(family, RAGGED)
    labels = inputs["input_ids"].where(inputs["input_ids"] < 90, -100)
    labels[:, :-5] = -100
    with prune(model) as run:
        whole = model(**inputs, output_hidden_states=True)
        picked = model(**inputs, logits_to_keep=torch.tensor([-3, -1]))
        loss = model(**inputs, labels=labels).loss
    length = inputs["input_ids"].shape[1]
    assert whole.logits.shape[:2] == (3, length)
    every = "logits_to_keep" not in inspect.signature(model.forward).parameters
    agree(picked.logits, whole.logits if every else whole.logits[:, [-3, -1]])
    lengths = inputs["attention_mask"].sum().item() if every else 3
    assert run.report.flops.lm_head == 2 * lengths * model.lm_head.weight.numel()
    expected = torch.nn.functional.cross_entropy(
        whole.logits[:, -6:-1].flatten(0, 1), labels[:, -5:].flatten()
    )
    assert torch.allclose(loss, expected, atol=1e-6)
    assert len(whole.hidden_states) == len(family.layers) + 1
    for made_by, state in enumerate(whole.hidden_states[1:]):  # zeros exactly where the layer did not run
        for b, kept in enumerate(run.report.kept[made_by]):
            ran = torch.zeros(length, dtype=torch.bool)
            ran[kept] = True
            scored = min(run.method.scored_layers(run.shape))  # the first cut is behind it
            assert torch.equal(state[b].abs().sum(-1) > 0, ran) or made_by <= scored


@feature("outputs")
@torch.no_grad()
def test_a_cache_made_without_a_config_and_plain_tuples(family: Any, prune: AdaTP, agree: Agree) -> None:
    model, inputs = build(family), batch(family, RAGGED)
    with prune(model):
        expected = model(**inputs, past_key_values=DynamicCache(config=model.config.get_text_config())).logits
        if not issubclass(family, Qwen35):  # transformers makes no state for linear attention unasked
            agree(model(**inputs, past_key_values=DynamicCache()).logits, expected)
        agree(model(**inputs, use_cache=False).logits, expected)
        agree(model(**inputs, return_dict=False)[0], expected)


@feature("images")
def test_images_beside_videos_are_kept(family: Any, agree: Agree) -> None:
    model = build(family)
    inputs = batch(family, ONE)
    ids = inputs["input_ids"][0]
    image, more = family.image()
    inputs["input_ids"] = torch.cat([ids[:2], image, ids[2:]])[None]
    inputs["attention_mask"] = torch.ones_like(inputs["input_ids"])
    inputs.update(more)
    inputs.pop("second_per_grid_ts", None)  # transformers 5.5 would count the image among the videos here
    inputs.update(family.more(inputs["input_ids"]))
    with AdaTP(flops=0.8)(model) as run, recorded(model) as record:
        model.generate(**inputs, **GREEDY)
    assert dropped(run)
    where = (inputs["input_ids"][0] == IMAGE).nonzero().squeeze(1)
    assert all(torch.isin(where, layer[0]).all() for layer in run.report.kept)
    agree.masked(model, record, run.report.kept, inputs["attention_mask"].bool(), within=1e-5)


@feature("videos")
def test_several_videos_in_a_prompt(family: Any, prune: AdaTP, agree: Agree) -> None:
    model = build(family)
    one, two = batch(family, [Prompt(seed=1, question=0)]), batch(family, [Prompt(seed=2)])
    texts = ("input_ids", "attention_mask", "mm_token_type_ids")
    inputs = {name: torch.cat([one[name], two[name]], int(name in texts)) for name in one}
    with prune(model) as run, recorded(model) as record:
        model.generate(**inputs, **GREEDY)
    assert dropped(run)
    segments = run.report.to_dict()["samples"][0]["segments"]
    assert segments[8] > segments[7]  # no segment spans two videos
    agree.masked(model, record, run.report.kept, inputs["attention_mask"].bool(), within=1e-5)


def public(attribute: str) -> bool:
    # Qwen-VL keeps the rope deltas of its last call, pruned or not.
    return not attribute.startswith("_") and attribute != "rope_deltas"


def snapshot(model: Any) -> dict[str, Any]:
    """Everything about a model that a context could leave behind."""
    return {
        name: {
            "config": id(getattr(module, "config", None)),
            "implementation": getattr(getattr(module, "config", None), "_attn_implementation", None),
            "training": module.training,
            "attributes": {key: id(value) for key, value in vars(module).items() if public(key)},
            "private": sorted(vars(module)),
            "hooks": [
                list(getattr(module, hooks))
                for hooks in ("_forward_hooks", "_forward_pre_hooks", "_forward_hooks_with_kwargs")
            ],
            "always": list(module._forward_hooks_always_called),
        }
        for name, module in model.named_modules()
    } | {"state": {name: (id(t), t.sum().item()) for name, t in model.state_dict(keep_vars=True).items()}}


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
            model.get_decoder().layers[3].mlp.register_forward_hook(lambda *_: 1 / 0)
            try:
                model(**inputs)
            finally:
                model.get_decoder().layers[3].mlp._forward_hooks.clear()
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
    config = model.get_decoder().config
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


@engine
def test_without_a_cache_every_step_is_pruned(family: Any, prune: AdaTP) -> None:
    model, inputs = build(family), batch(family, ONE)
    with prune(model) as run:
        model.generate(**inputs, **GREEDY, use_cache=False)
    assert len(run.reports) == STEPS
    assert all(0.97 * prune.flops < report.flops_ratio <= prune.flops for report in run.reports)


@feature("leaving")
def test_nothing_of_a_request_is_held_afterwards(family: Any, prune: AdaTP) -> None:
    model, inputs = build(family), batch(family, ONE)
    encoded = []
    model.base_model.register_forward_pre_hook(
        lambda _, args, kwargs: encoded.append(kwargs.get("mm_encoder_outputs")), with_kwargs=True
    )
    with prune(model) as run:
        model.generate(**inputs, **GREEDY)
        gone = weakref.ref(next(iter(encoded[0].values()))) if encoded[0] else None
        encoded.clear()
        gc.collect()
        assert gone is None or gone() is None
        assert run._encoded is None


@pytest.mark.skipif(
    VERSION in [(5, 5), (5, 12), (5, 16), (5, 18)],
    reason="in these versions of transformers a prompt in chunks loses its video, pruned or not",
)
@feature("warned", [family for family in FAMILIES if family.found])
def test_a_prompt_in_chunks_is_not_pruned(family: Any, prune: AdaTP, agree: Agree) -> None:
    model, inputs = build(family), batch(family, ONE)
    expected = model.generate(**inputs, **GREEDY, prefill_chunk_size=16)
    with prune(model) as run, pytest.warns(UserWarning, match="not pruned: the prompt comes in chunks"):
        output = model.generate(**inputs, **GREEDY, prefill_chunk_size=16)
    agree(generated_logits(output), generated_logits(expected))
    assert not run.reports


@engine
def test_after_a_failed_call_the_next_is_reported_right(family: Any, prune: AdaTP) -> None:
    model, inputs = build(family), batch(family, ONE)
    with prune(model) as run:
        hook = model.get_decoder().layers[3].mlp.register_forward_hook(lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            model(**inputs)
        hook.remove()
        model(input_ids=torch.arange(1, 9)[None])
        assert not run.reports
        model(**inputs)
        assert len(run.reports) == 1
        assert dropped(run)


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


@feature("warned")
def test_a_video_with_no_words_behind_it_is_not_pruned(family: Any, prune: AdaTP, agree: Agree) -> None:
    model, inputs = build(family), batch(family, ONE)
    cut = int((inputs["input_ids"][0] == family.token).nonzero()[-1]) + 1
    for name in ("input_ids", "attention_mask", "mm_token_type_ids", "token_type_ids"):
        if name in inputs:
            inputs[name] = inputs[name][:, :cut]
    expected = model(**inputs).logits
    with prune(model), pytest.warns(UserWarning, match="not pruned: no text follows"):
        agree(model(**inputs).logits, expected)


# --- merging ----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Merge(Method):
    """Average each visual token into the first one of its group of ``group``, before layers 0 and 3."""

    name: ClassVar[str] = "merge"
    group: int = 3

    def schedule(self, shape: Any, *, visual: int, other: int, question: int) -> Any:
        raise NotImplementedError

    def scored_layers(self, shape: Any) -> list[int]:
        return []

    def plan(self, prefill: Prefill) -> Any:
        return MergePlan(prefill, self.group)


class MergePlan:
    def __init__(self, prefill: Prefill, group: int) -> None:
        self.layouts, self.group = prefill.layouts, group
        self.real = [layout.real for layout in prefill.layouts]
        self.queries = [layout.question for layout in prefill.layouts]
        self.scored, self.cuts = frozenset[int](), frozenset({0, 3})

    def select(self, layer: int, sample: int, alive: Tensor, scores: Any, hidden: Tensor) -> Selection:
        assert scores is None
        visual = torch.isin(alive, self.layouts[sample].index)
        number = visual.cumsum(0) - 1  # of the visual tokens still there
        stays = ~visual | (number % self.group == 0)
        into = stays.cumsum(0) - 1  # text behind the video sits in no group
        for i in range(len(alive)):
            if not visual[i]:
                assert stays[i]
        if self.group > 1 and layer == 0:
            into[int((visual & ~stays).nonzero()[-1])] = -1  # one is dropped
        taken.append((layer, sample, alive, alive[stays], into, hidden))
        return Selection(alive[stays], into)

    def notes(self) -> list[dict[str, Any]]:
        return []


taken: list[Any] = []


@feature("merge", every_attention=True)
@batches
def test_merging_is_averaging_in_a_masked_run(
    family: Any, attention: str, prompts: list[Prompt], agree: Agree
) -> None:
    model, inputs = build(family, attention), batch(family, prompts)
    taken.clear()
    with Merge()(model) as run, recorded(model) as record:
        model.generate(**inputs, **GREEDY)
    assert run.report.visual_tokens[0][0] < 2 + run.report.prompt_visual_tokens[0] // 3

    def average(layer: int) -> Any:
        def hook(_: Any, args: Any, kwargs: Any) -> Any:
            states = args[0].clone()
            for at, sample, alive, kept, into, hidden in taken:
                if at == layer:
                    assert (hidden - args[0][sample, alive]).abs().max() < 1e-4
                    for k in range(len(kept)):
                        states[sample, kept[k]] = args[0][sample, alive[into == k]].mean(0)
            return (states, *args[1:]), kwargs

        return hook

    layers = model.get_decoder().layers
    handles = [
        layers[number].register_forward_pre_hook(average(number), with_kwargs=True) for number in (0, 3)
    ]
    real = inputs["attention_mask"].bool()
    agree.masked(model, record, run.report.kept, real, within=1e-5)
    for handle in handles:
        handle.remove()
    plain = masking_error(model, record, run.report.kept, real)
    assert plain > 1e-2  # it does matter


@engine
@batches
def test_merging_nothing_is_bit_identical(family: Any, prompts: list[Prompt], agree: Agree) -> None:
    model, inputs = build(family), batch(family, prompts)
    expected = model(**inputs).logits
    with Merge(group=1)(model):
        agree(model(**inputs).logits, expected)


# --- what methods are told --------------------------------------------------------------------------------


@dataclass(frozen=True)
class Look(Merge):
    """Keeps everything and remembers what it was told."""

    tower_attention: ClassVar[bool] = True

    def plan(self, prefill: Prefill) -> None:
        samples = range(len(prefill.layouts))
        told[:] = [(prefill.visual(b), prefill.tower_attention(b)) for b in samples]


told: list[tuple[Tensor, Tensor]] = []


@feature("scores")
@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@torch.no_grad()
def test_methods_see_the_visual_tokens_and_the_towers_attention(
    family: Any, attention: str, agree: Agree
) -> None:
    model, prompts = sharp_tower(family, attention), [Prompt(frames=3, seed=1), Prompt(frames=3, seed=2)]
    inputs = wide_videos(prompts) if family is Qwen25VL else batch(family, prompts)
    expected = model(**inputs).logits
    with Vanilla()(model) as vanilla:
        model(**inputs)
    with Look()(model) as run:
        agree(model(**inputs).logits, expected)
    assert run.report.flops.vision > vanilla.report.flops.vision
    encoded = family.encode(model, inputs)
    for (visual, received), video in zip(told, encoded, strict=True):
        agree(visual, family.shown(video))
        assert len(visual) == len(received)
    received, expected = torch.cat([received for _, received in told]), received_in_the_tower(family, inputs)
    if family.compresses:
        expected = expected[inputs["video_compression_mask"]]
    agree(received, expected, within=1e-6)
    assert received.std() > 1e-4  # not flat, or any order would do


def sharp_tower(family: Any, attention: str) -> Any:
    """The tower's last attention is not flat either."""
    model = build(family, attention)
    for name, parameter in family.last_attention(model).named_parameters():
        if parameter.ndim == 2 and ("qkv" in name or "q_proj" in name):
            parameter.data.mul_(30)
    return model


def wide_videos(prompts: list[Prompt]) -> dict[str, Tensor]:
    """Qwen2.5-VL's inputs of videos of 4 x 6 tokens a frame: its windows of 2 x 2 are not in raster order."""
    pixels, rows, grids = [], [], []
    for prompt in prompts:
        generator = torch.Generator().manual_seed(prompt.seed)
        pixels.append(torch.randn(prompt.frames * 96, 3 * 2 * 4 * 4, generator=generator))
        grids.append([prompt.frames, 8, 12])
        rows.append([1, 94, *[VIDEO] * (prompt.frames * 24), 95, 5, 6, 7])
    length = max(map(len, rows))
    ids = torch.tensor([[0] * (length - len(row)) + row for row in rows])
    return {
        "input_ids": ids,
        "attention_mask": (ids > 0).long(),
        "mm_token_type_ids": (ids == VIDEO).long() * 2,
        "pixel_values_videos": torch.cat(pixels),
        "video_grid_thw": torch.tensor(grids),
        "second_per_grid_ts": torch.ones(len(prompts)),
    }


def received_in_the_tower(family: Any, inputs: dict[str, Tensor]) -> Tensor:
    """What each token's patches receive in the last layer of an eager tower, by its own probabilities."""
    model, seen = sharp_tower(family, "eager"), []
    last = family.last_attention(model)
    modeling = sys.modules[type(last).__module__]
    eager = modeling.eager_attention_forward

    def spy(module: Any, *args: Any, **kwargs: Any) -> Any:
        output, weights = eager(module, *args, **kwargs)
        if module is last:
            seen.append(weights.mean((1, 2)).flatten())
        return output, weights

    modeling.eager_attention_forward = spy
    try:
        family.encode(model, inputs)
    finally:
        modeling.eager_attention_forward = eager
    return family.pooled(torch.cat(seen))
