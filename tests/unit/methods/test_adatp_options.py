"""What AdaTP may do beyond its default: each option changes what it says it changes, at the same FLOPs."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from adatp import AdaTP, Report, tiny
from adatp.adatp_steps.merging import merge_targets
from adatp.adatp_steps.ranking import both, by_chance, rank_of
from adatp.adatp_steps.relevance import reliability
from adatp.encoders import NoEncoderError
from adatp.flops import DecoderShape
from adatp.layout import PromptCounts
from adatp.methods.segments import segments_of
from adatp.relevance import PromptRelevance
from families import FAMILIES, Prompt, batch, build
from prefills import TINY, prefill_of

LONG = Prompt(frames=24, question=8)
SHAPE = DecoderShape(layers=20, hidden=192, heads=6, kv_heads=2, head_dim=32, intermediate=384, vocab=300)


@pytest.fixture(scope="module")
def model() -> Any:
    return build(FAMILIES[0])


def scenes() -> dict[str, Any]:
    """Three scenes of eight frames; the third repeats the first."""
    inputs = batch(FAMILIES[0], [LONG])
    pixels = inputs["pixel_values_videos"][0]
    for scene, source in enumerate((0, 8, 0)):
        pixels[8 * scene : 8 * scene + 8] = pixels[source].clone() + 0.02 * torch.randn(
            8, *pixels[0].shape, generator=torch.Generator().manual_seed(scene)
        )
    return inputs


def run(model: Any, method: AdaTP, inputs: dict[str, Any] | None = None) -> Report:
    with method(model, strict=True) as opened, torch.no_grad():
        model(**(inputs or batch(FAMILIES[0], [LONG])))
    return opened.report


def kept(report: Report, layer: int = -1) -> list[int]:
    found: list[int] = report.kept[layer][0].tolist()
    return found


OPTIONS: list[dict[str, Any]] = [
    {"duplicates": "video", "early": "on"},
    {"ranking": "novelty"},
    {"ranking": "both"},
    {"ranking": "random"},
    {"first_layers": 2, "start": 3},
    {"every": 3},
    {"prior": "video"},
    {"shares": "distinct", "early": "off", "tau_d": 0.5},
    {"merge": 0.5},
]


@pytest.mark.parametrize("option", OPTIONS, ids=str)
def test_an_option_changes_what_is_kept_and_not_what_is_spent(model: Any, option: dict[str, Any]) -> None:
    inputs = scenes()
    base: dict[str, Any] = {"flops": 0.6, "early": "off", "tau_s": 0.99, "relevance": "none"}
    base |= {name: option[name] for name in ("early", "start", "tau_d") if name in option}
    plain, changed = run(model, AdaTP(**base), inputs), run(model, AdaTP(**{**base, **option}), inputs)
    assert changed.flops_ratio <= 0.6
    assert changed.flops_ratio > 0.98 * 0.6
    assert [n for (n,) in changed.visual_tokens] == changed.notes[0]["schedule"]
    assert changed.merges == ("merge" in option)
    if "merge" not in option:  # what is averaged changes later scores alone
        assert kept(plain) != kept(changed)


def test_random_ranking_is_the_same_in_every_run(model: Any) -> None:
    method = AdaTP(flops=0.6, early="off", ranking="random")
    assert kept(run(model, method)) == kept(run(model, method))
    assert torch.equal(by_chance(5), by_chance(5))
    assert by_chance(1000).unique().numel() == 1000


def test_duplicates_of_another_scene_are_found_over_the_video(model: Any) -> None:
    inputs, tokens = scenes(), FAMILIES[0].tokens_a_frame
    base = AdaTP(flops=0.3, early="on", even=0.5, tau_s=0.99, tau_d=0.95, relevance="none")
    counts = {}
    for scope in ("segment", "video"):
        method = AdaTP(**{**base.settings, "duplicates": scope})
        first = torch.tensor(kept(run(model, method, inputs), 0)) - LONG.before - 1
        frames = first[(first >= 0) & (first < 24 * tokens)] // tokens
        counts[scope] = [int(((frames // 8) == scene).sum()) for scene in range(3)]
    assert counts["video"][2] < counts["segment"][2]  # nothing in it is new
    assert sum(counts["video"]) == sum(counts["segment"])


# --- pure functions ---


def test_merge_targets_by_hand() -> None:
    states = torch.tensor([[1.0, 0.0], [0.9, 0.1], [0.0, 1.0], [1.0, 0.0], [-1.0, 0.0]])
    segment = torch.tensor([0, 0, 0, 1, 1])
    into = merge_targets(states, segment, torch.tensor([0, 2]), 0.9)
    assert into.tolist() == [0, 0, 1, -1, -1]  # the other segment keeps nothing to merge into
    assert merge_targets(states, 0 * segment, torch.tensor([0, 2]), 0.9).tolist() == [0, 0, 1, 0, -1]
    assert merge_targets(states, 0 * segment, torch.tensor([0, 2]), -1).tolist()[4] == 1


def test_ranks() -> None:
    scores = torch.tensor([3.0, 1.0, 3.0, 9.0])
    assert (4 * rank_of(scores)).tolist() == [3, 1, 2, 4]
    assert (4 * both(scores, torch.tensor([1.0, 4, 3, 2]))).tolist() == [2, 2.5, 2.5, 3]
    assert both(scores, scores).argmax() == 3


def test_reliability() -> None:
    segment = torch.tensor([0, 0, 0, 1, 1, 1])
    apart = torch.tensor([0.0, 0.1, 0.0, 1.0, 1.1, 1.0])
    assert reliability(apart, segment) > 0.98
    mixed = torch.tensor([0.0, 1.0, 0.5, 0.5, 0.0, 1.0])
    assert reliability(mixed, segment) == 0
    assert reliability(torch.ones(6), segment) == 0
    assert reliability(apart, torch.arange(6)) == 1
    assert reliability(apart, torch.zeros(6, dtype=torch.int64)) == 1
    between = 3 * ((apart[:3].mean() - apart.mean()) ** 2) * 2
    within = (apart[:3] - apart[:3].mean()).square().sum() + (apart[3:] - apart[3:].mean()).square().sum()
    assert reliability(apart, segment) == pytest.approx(float(1 - within / 4 / between), abs=1e-5)


def test_weights_are_softened_where_relevance_says_little(
    model: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    noise = torch.randn(24, generator=torch.Generator().manual_seed(0))
    monkeypatch.setattr("adatp.methods.debiasing.segments_of", lambda *_: torch.arange(24) // 8)
    for signal, trusted in ((torch.arange(24).ge(16).float(), True), (noise, False)):
        monkeypatch.setattr(PromptRelevance, "__call__", lambda *_, signal=signal: signal)
        plain, soft = (
            run(model, AdaTP(flops=0.6, early="off", soften=soften)).notes[0]["segment_weights"]
            for soften in (False, True)
        )
        assert len(plain) == 3
        if trusted:
            assert soft == pytest.approx(plain)
        else:
            assert max(soft) / min(soft) < max(plain) / min(plain)


# --- several layers ---


def test_extra_layers_are_paid_for_and_are_those_before_the_first_cut() -> None:
    method = AdaTP(flops=0.4, early="off", start=4, first_layers=3)
    assert method.extra_cuts(SHAPE) == (2, 3)
    assert list(method.scored_layers(SHAPE))[:4] == [1, 2, 3, 4]
    counts = PromptCounts(576, 20, 16)
    one, three = (
        AdaTP(flops=0.4, early="off", start=4, first_layers=layers).schedule(SHAPE, counts)
        for layers in (1, 3)
    )
    assert three.flops <= 0.4 * three.vanilla_flops
    assert sum(three.visual) < sum(one.visual)
    assert method.cuts_of(SHAPE, three, 576) >= {2, 3, 4}
    assert AdaTP(first_layers=9, start=2).extra_cuts(SHAPE) == (1,)
    assert AdaTP(first_layers=9, start=1).extra_cuts(SHAPE) == ()


# --- fewer cuts ---


def test_tokens_are_dropped_before_one_layer_in_so_many() -> None:
    counts = PromptCounts(576, 20, 16)
    for early in ("off", "on"):
        every, third = (AdaTP(flops=0.4, early=early, start=2, end=9, every=step) for step in (1, 3))
        assert third.cuts(SHAPE) == (0, 2, 5, 8)
        assert list(third.scored_layers(SHAPE)) == [1, 4, 7]
        one, three = every.schedule(SHAPE, counts), third.schedule(SHAPE, counts)
        assert 0.99 * 0.4 * three.vanilla_flops < three.flops <= 0.4 * three.vanilla_flops
        assert len(set(three.visual)) == 4 < len(set(one.visual))
        assert three.visual[2] == three.visual[4] > three.visual[5]


def test_less_that_survives_leaves_more_to_the_decoder() -> None:
    counts = PromptCounts(576, 20, 16)
    half, quarter = (
        AdaTP(flops=0.1, early="on", survive=share).schedule(SHAPE, counts) for share in (0.5, 0.25)
    )
    assert quarter.visual[0] > half.visual[0]
    assert quarter.visual[-1] < half.visual[-1]
    assert quarter.visual[-1] / quarter.visual[0] == pytest.approx(0.25, abs=0.03)
    assert 0.99 * 0.1 * quarter.vanilla_flops < quarter.flops <= 0.1 * quarter.vanilla_flops


@pytest.mark.parametrize(
    ("flops", "visual", "survive", "even"),
    [(0.273, 1152, 0.8, 1.0), (0.1, 1152, 0.8, 1.0), (0.1, 576, 0.5, 0.5), (0.05, 1152, 0.5, 0.5)],
)
def test_with_plenty_of_tokens_the_early_stage_is_even_and_the_cuts_are_gentle(
    flops: float, visual: int, survive: float, even: float
) -> None:
    """The decoder of the second embedded model, with its clips of 16 and 32 frames."""
    shape, counts = DecoderShape(20, 192, 6, 6, 32, 512, 300), PromptCounts(visual, 20, 16)
    method = AdaTP(flops=flops, early="on")
    schedule = method.schedule(shape, counts)
    assert schedule == AdaTP(flops=flops, early="on", survive=survive).schedule(shape, counts)
    assert method.even_part(schedule, visual) == even
    assert AdaTP(flops=flops, early="on", even=0.3).even_part(schedule, visual) == 0.3
    alone = AdaTP(flops=flops, early="only")  # nothing follows the early stage
    assert alone.even_part(alone.schedule(shape, counts), visual) == 0.5


def test_an_even_early_stage_leaves_every_frame_as_many_tokens() -> None:
    prefill, [hidden] = prefill_of(TINY)
    [layout] = prefill.layouts
    for even, equal in ((None, True), (0.5, False)):
        plan = AdaTP(flops=0.5, early="on", even=even).plan(prefill)
        assert plan is not None
        kept = plan.select(0, 0, plan.real[0], None, hidden).kept
        by_frame = layout.frame[torch.isin(layout.index, kept)].bincount()
        assert (int(by_frame.max() - by_frame.min()) <= 1) == equal


# --- the paper's method, and segments by the head ---


def test_the_papers_method_by_one_name() -> None:
    paper = AdaTP.paper()
    assert (paper.early, paper.segments, paper.flops) == ("off", "auto", 0.273)
    assert AdaTP.paper(0.5, tau_s=0.9) == AdaTP(flops=0.5, tau_s=0.9, early="off", segments="auto")
    assert AdaTP().segments == "mean"


def test_segments_by_pooled_output_where_it_is_at_hand() -> None:
    prefill, _ = prefill_of(TINY)
    pooled = torch.eye(3)[torch.arange(16) // 6]
    assert segments_of(prefill, 0, 0.9, "auto").tolist() == segments_of(prefill, 0, 0.9).tolist()
    object.__setattr__(prefill, "frame_embeddings", lambda _: pooled)
    assert segments_of(prefill, 0, 0.9, "auto").tolist() == [0] * 6 + [1] * 6 + [2] * 4
    assert segments_of(prefill, 0, 0.9, "mean").tolist() != [0] * 6 + [1] * 6 + [2] * 4


@torch.no_grad()
def test_the_head_is_run_once_and_its_cosines_cut_segments() -> None:
    video_llm, processor = tiny.load()
    clip = tiny.world.make_clip(3, 12, "validation").frames
    content = [{"type": "video"}, {"type": "text", "text": "what colour is the star ?"}]
    prompt = processor.apply_chat_template([{"role": "user", "content": content}], add_generation_prompt=True)
    inputs = processor(text=[prompt], videos=[clip])
    reports = {}
    for segments in ("mean", "auto", "head"):
        for relevance in ("siglip", "none"):
            with AdaTP(flops=0.5, segments=segments, relevance=relevance, tau_s=0.9)(
                video_llm, processor
            ) as run:
                video_llm(**inputs)
            reports[segments, relevance] = run.report
    siglip = reports["mean", "siglip"].flops.relevance
    assert reports["head", "siglip"].flops.relevance == siglip  # one pass serves both
    assert 0 == reports["mean", "none"].flops.relevance < reports["head", "none"].flops.relevance < siglip
    assert reports["auto", "none"].notes[0]["segments"] == reports["head", "none"].notes[0]["segments"]
    assert reports["head", "siglip"].notes[0]["segments"] == reports["head", "none"].notes[0]["segments"]
    assert reports["head", "none"].notes[0]["segments"] != reports["mean", "none"].notes[0]["segments"]


def test_a_head_that_can_not_be_had(model: Any) -> None:
    run(model, AdaTP(flops=0.6, segments="auto"))
    with pytest.raises(NoEncoderError):
        run(model, AdaTP(flops=0.6, segments="head"))


@pytest.mark.parametrize(
    "setting",
    [
        {"duplicates": "frame"},
        {"ranking": "luck"},
        {"first_layers": 0},
        {"every": 0},
        {"survive": 0},
        {"prior": "black"},
        {"shares": "all"},
        {"merge": 2},
        {"segments": "cls"},
        {"question_free": True, "ranking": "both"},
        {"question_free": True, "prior": "video"},
        {"question_free": True, "first_layers": 2},
    ],
    ids=str,
)
def test_options_that_make_no_sense(setting: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(reversed(setting))):
        AdaTP(**setting)
