"""Everything dropped before the first layer, to an exact number of tokens: `AdaTP(early="only")`."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from adatp import AdaTP
from adatp.adatp_steps.before_layers import Thresholds, choose_before_layers, kept_tokens
from adatp.flops import DecoderShape
from adatp.layout import build_layouts
from adatp.prefill import Prefill
from families import FAMILIES, LlavaOnevision, Prompt, Qwen3VL, Qwen25VL, VideoLlama3, batch, build
from prefills import prefill_of, run_plan

families = pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.name)


@families
@pytest.mark.parametrize("keep", [0.3, 0.6])
def test_each_prompt_keeps_as_many_as_asked(family: Any, keep: float) -> None:
    model = build(family)
    with AdaTP(early="only", keep=keep)(model) as run, torch.no_grad():
        model(**batch(family, [Prompt(frames=9), Prompt(frames=9)]))
    expected = [kept_tokens(len(layout.index), keep) for layout in run.layouts]
    assert run.report.visual_tokens == [expected] * len(family.layers)
    assert run.report.method == "adatp"
    if family is LlavaOnevision:
        assert expected == [kept_tokens(36, keep)] * 2


@pytest.mark.parametrize("family", [LlavaOnevision, Qwen25VL, Qwen3VL, VideoLlama3], ids=lambda one: one.name)
@pytest.mark.parametrize("flops", [0.5, 0.3])
def test_a_flops_target_is_met_from_below(family: Any, flops: float) -> None:
    model = build(family)
    with AdaTP(early="only", flops=flops)(model) as run, torch.no_grad():
        model(**batch(family, [Prompt(frames=40)]))
    assert flops - 0.02 < run.report.flops_ratio <= flops
    counts = run.report.visual_tokens
    assert counts == [counts[0]] * len(family.layers)


def two_videos() -> tuple[Any, Prefill, torch.Tensor]:
    """A prompt with videos of other grids, whose embeddings are random."""
    ids = torch.tensor([[1] + [9] * 24 + [2] + [9] * 18 + [2, 3]])
    (layout,) = build_layouts(ids, ids > 0, [(6, 2, 2), (2, 3, 3)], video_token_id=9)
    prefill = Prefill(
        shape=DecoderShape.from_config(LlavaOnevision.config().text_config),
        layouts=[layout],
        frame_features=lambda _: pytest.fail("embeddings alone decide"),
        relevance=lambda _: torch.arange(8.0),
        tower_attention=lambda _: pytest.fail("embeddings alone decide"),
    )
    return layout, prefill, torch.randn(46, 8, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("budget", [{"keep": 0.5}, {"flops": 0.5}], ids=["keep", "flops"])
def test_every_video_is_chosen_from_by_itself(budget: dict[str, float]) -> None:
    layout, prefill, hidden = two_videos()
    method = AdaTP(early="only", **budget)  # type: ignore[arg-type]
    plan = method.plan(prefill)
    assert plan is not None
    kept = plan.select(0, 0, plan.real[0], None, hidden).kept
    found = [int(at) for at in kept if at in layout.index]
    if "keep" in budget:
        assert len(found) == 12 + 9
    shares = plan.notes()[0]["kept_by_video"]
    assert abs(shares[0] / 24 - shares[1] / 18) < 0.06
    videos = [(hidden[1:25].view(6, 4, 8), 1, slice(0, 6)), (hidden[26:44].view(2, 9, 8), 26, slice(6, 8))]
    expected = []
    for (tokens, first, frames), share in zip(videos, shares, strict=True):
        relevance = torch.arange(8.0)[frames]
        expected += (choose_before_layers(tokens, share, Thresholds(), relevance) + first).tolist()
    assert found == expected


@pytest.mark.parametrize("videos", [[(1, 1, 1)] * 2, [(4, 2, 2)] * 3], ids=str)
def test_a_budget_below_one_token_for_each_video(videos: list[Any]) -> None:
    prefill, (embeds,) = prefill_of(videos)
    with pytest.warns(UserWarning, match="the least that adatp can do"):
        plan = AdaTP(early="only", flops=0.001).plan(prefill)
    assert plan is not None
    layers = run_plan(plan, 0, embeds)
    [note] = plan.notes()
    assert sum(note["kept_by_video"]) == 1
    assert 0 in note["kept_by_video"]
    assert len(layers[0]) == prefill.layouts[0].counts.other + 1


def test_all_tokens_are_kept_to_the_bit() -> None:
    model, inputs = build(LlavaOnevision), batch(LlavaOnevision, [Prompt(frames=6)])
    with torch.no_grad():
        vanilla = model(**inputs).logits
        with AdaTP(early="only", keep=1.0)(model):
            assert torch.equal(model(**inputs).logits, vanilla)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"keep": 0.5}, 'keep needs early="only"'),
        ({"keep": 0.5, "early": "on"}, 'keep needs early="only"'),
        ({"keep": 0.0, "early": "only"}, r"in \(0, 1\], not 0.0"),
        ({"keep": 1.5, "early": "only"}, r"in \(0, 1\], not 1.5"),
        ({"early": "only", "start": 2}, 'early="only" does not go with start=2'),
        ({"early": "only", "relevance": "attention"}, "does not go with relevance='attention'"),
        ({"early": "only", "adaptive": True}, "does not go with adaptive=True"),
        ({"early": "only", "global_debias": False}, "does not go with global_debias=False"),
        ({"early": "only", "question_free": True}, "question_free=True does not go with early='only'"),
    ],
)
def test_settings_that_make_no_sense(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        AdaTP(**settings)


def test_a_share_takes_the_place_of_the_target() -> None:
    method = AdaTP(early="only", keep=0.25)
    assert method.flops is None
    assert "flops" not in method.settings
    assert method.settings["keep"] == 0.25
