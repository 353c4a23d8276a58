"""Omni models: audio beside a video, or between its tokens, is kept."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

from adatp import AdaTP
from adatp.models import family_of
from adatp.models.general.rule import GeneralRule, GeneralRuleError
from adatp.pruning.admission import unwrapped
from agreement import Agree
from families import VIDEO, Prompt, batch, build
from more_families import AUDIO, Qwen3OmniMoeThinker, Qwen25OmniThinker
from oracle import recorded
from rounding import limit
from suite import GREEDY

THINKERS = [Qwen25OmniThinker, Qwen3OmniMoeThinker]
thinkers = pytest.mark.parametrize("family", THINKERS, ids=lambda family: family.name)


@thinkers
def test_audio_between_the_tokens_of_a_video_is_kept(family: Any) -> None:
    """As `use_audio_in_video` interleaves them, two seconds at a time."""
    ours, config = family_of(family.name), family.config()
    chunk = [*[VIDEO] * 8, *[AUDIO] * 5]
    ids = torch.tensor([[1, 94, 87, *chunk * 3, 88, 95, 5, 6, 7]])
    call = {"input_ids": ids, "video_grid_thw": torch.tensor([[6, 4, 4]])}
    [layout] = ours.layouts(config, call, ids > 0, ours.grids(config, call, None))
    assert torch.equal(layout.index, (ids[0] == VIDEO).nonzero().squeeze(1))
    assert layout.frame.tolist() == [frame for frame in range(6) for _ in range(4)]
    assert not torch.isin(ids[0, layout.question], torch.tensor([AUDIO, VIDEO])).any()
    assert len(layout.question) == 5


@torch.no_grad()
def test_audio_beside_a_video_is_kept(agree: Agree) -> None:
    family = Qwen25OmniThinker
    model, inputs = build(family), batch(family, [Prompt()])
    sound = {
        "input_features": torch.randn(1, 16, 40, generator=torch.Generator().manual_seed(0)),
        "feature_attention_mask": torch.ones(1, 40, dtype=torch.int64),
    }
    ids = inputs["input_ids"]
    inputs["input_ids"] = torch.cat([ids[:, :3], torch.tensor([[87, *[AUDIO] * 10, 88]]), ids[:, 3:]], 1)
    inputs["attention_mask"] = torch.ones_like(inputs["input_ids"])
    with AdaTP(flops=0.8)(model) as run, recorded(model) as record:
        model.generate(**inputs, **sound, **GREEDY)
    heard = (inputs["input_ids"][0] == AUDIO).nonzero().squeeze(1)
    assert run.report.visual_tokens[-1] < run.report.visual_tokens[0]
    assert all(torch.isin(heard, kept[0]).all() for kept in run.report.kept)
    agree.masked(model, record, run.report.kept, inputs["attention_mask"].bool(), within=limit(family))


def test_of_an_omni_model_the_thinker_is_pruned() -> None:
    omni = nn.Module()
    omni.thinker = build(Qwen25OmniThinker)
    assert unwrapped(omni) is omni.thinker


def test_tokens_of_a_q_former_are_left_alone() -> None:
    with pytest.raises(GeneralRuleError, match="Q-Former"):
        GeneralRule().of(SimpleNamespace(base_model=SimpleNamespace(qformer=nn.Linear(1, 1))))
