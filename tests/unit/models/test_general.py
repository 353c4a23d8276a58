"""The general rule: what it derives, what it refuses, and that it prunes as the hand-written families do."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from transformers import LlavaOnevisionConfig, Qwen2VLConfig

from adatp.layout import LayoutError
from adatp.methods import METHODS, AdaTP
from adatp.models import (
    GeneralRuleError,
    UnsupportedModelError,
    by_general_rule,
    family_of,
    registry,
    supported,
)
from adatp.models.general import GeneralRule, offered
from adatp.models.general.derive import by_patches, by_runs, rectangle
from adatp.models.general.encoded import parts_of
from agreement import Agree
from families import (
    FAMILIES,
    LlavaNextVideo,
    LlavaOnevision,
    Prompt,
    Qwen2VL,
    VideoLlama3,
    VideoLlama3Whole,
    VideoLlava,
    batch,
    build,
)
from oracle import recorded
from processors import PROCESSORS
from prompts import asked, frames
from rounding import limit
from suite import EARLY, GREEDY, LATE, ONE, RAGGED, dropped

EQUAL_LAYOUT = [f for f in FAMILIES if f not in (VideoLlava, VideoLlama3)]
SAME = ("index", "cell", "video", "frame", "row", "column", "question", "real", "tokens_by_frame")


@pytest.fixture
def no_files(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Nobody has registered anything."""
    monkeypatch.setattr(registry, "_entries", {})
    monkeypatch.setattr(registry, "_by_rule", {"gemma3"})  # whose processor does not say that it reads videos
    return


@pytest.mark.parametrize("family", [*EQUAL_LAYOUT, VideoLlama3Whole], ids=lambda family: family.__name__)
@pytest.mark.parametrize("prompts", [ONE, RAGGED], ids=["one", "ragged"])
@torch.no_grad()
def test_it_lays_prompts_out_as_the_files_do(
    family: Any, prompts: list[Prompt], monkeypatch: pytest.MonkeyPatch
) -> None:
    model, inputs = build(family), batch(family, prompts)
    with LATE(model) as run:
        model(**inputs)
    expected = run.layouts
    monkeypatch.setattr(registry, "_entries", {})
    monkeypatch.setattr(registry, "_by_rule", {family.name})
    assert isinstance(family_of(family.name), GeneralRule)
    with LATE(model) as run:
        model(**inputs)
    assert dropped(run)
    for ours, its in zip(run.layouts, expected, strict=True):
        assert ours.grids == its.grids
        assert all(torch.equal(getattr(ours, name), getattr(its, name)) for name in SAME)


@pytest.mark.parametrize("family", EQUAL_LAYOUT, ids=lambda family: family.name)
@pytest.mark.usefixtures("no_files")
@torch.no_grad()
def test_it_lays_out_what_real_processors_make(family: Any) -> None:
    """Of frames that are no squares, where a family's tokens follow their size."""
    model = build(family)
    height, width = (24, 40) if family.any_size else (family.side, family.side)
    inputs = asked(PROCESSORS[family](), ["what is the red ball ?"], [frames(6, height, width)])
    with LATE(model) as run:
        model(**inputs)
    [layout] = run.layouts
    assert layout.grids == (family.grid(6, height, width),)
    placeholders = (inputs["input_ids"][0] == family.token).nonzero().squeeze(1)
    assert torch.equal(layout.index, family.shown(placeholders))
    assert len(layout.index) == np.prod(layout.grids[0])


@pytest.mark.usefixtures("no_files")
def test_beams_and_dropping_are_exact(agree: Agree) -> None:
    """The engine is the same: what is dropped equals what is masked."""
    model, inputs = build(Qwen2VL), batch(Qwen2VL, RAGGED)
    with EARLY(model) as run, recorded(model) as record:
        model.generate(**inputs, **GREEDY)
    assert dropped(run)
    agree.masked(model, record, run.report.kept, inputs["attention_mask"].bool(), within=limit(Qwen2VL))
    with LATE(model) as run:
        model.generate(**inputs, **{**GREEDY, "output_logits": False}, num_beams=2)
    assert dropped(run)
    assert len(run.layouts) == 2 * len(RAGGED)
    assert {layout.grids for layout in run.layouts} == {((8, 2, 2),)}


@pytest.mark.usefixtures("no_files")
@torch.no_grad()
def test_what_does_not_fit_is_said_and_not_pruned(agree: Agree) -> None:
    """VideoLLaMA3's processor leaves tokens out, which no convention tells of."""
    model, inputs = build(VideoLlama3), batch(VideoLlama3, ONE)
    expected = model(**inputs).logits
    with (
        LATE(model) as run,
        pytest.warns(UserWarning, match="general rule counts 128 .* hold 80 of video_token_id"),
    ):
        agree(model(**inputs).logits, expected)
    assert not run.reports
    assert sum(run.not_pruned.values()) == 1


@pytest.mark.usefixtures("no_files")
@torch.no_grad()
def test_a_class_token_is_taken_for_a_place() -> None:
    """Nothing says that it is none: 17 tokens a frame become one row. Every placeholder is accounted for."""
    model, inputs = build(VideoLlava), batch(VideoLlava, ONE)
    with LATE(model) as run:
        model(**inputs)
    assert run.layouts[0].grids == ((8, 1, 17),)
    assert dropped(run)


@pytest.mark.usefixtures("no_files")
@torch.no_grad()
def test_the_model_is_what_it_was_and_a_copy_is_its_own(agree: Agree) -> None:
    model, inputs = build(LlavaNextVideo), batch(LlavaNextVideo, ONE)
    expected, before = model(**inputs).logits, dict(vars(model.base_model))
    with LATE(model) as run:
        twin = copy.deepcopy(model)
        pruned = model(**inputs).logits
        agree(twin(**inputs).logits, expected)
        assert len(run.reports) == 1
        with LATE(twin) as own:
            agree(twin(**inputs).logits, pruned)
        assert len(own.reports) == 1
    assert vars(model.base_model) == before
    agree(model(**inputs).logits, expected)


@pytest.mark.usefixtures("no_files")
def test_methods_that_need_the_towers_attention_ask_for_a_file() -> None:
    reading = [kind for kind in METHODS.values() if kind.tower_attention]
    assert reading
    with pytest.raises(ValueError, match="family file"):
        reading[0](flops=0.5)(build(LlavaOnevision)).__enter__()


@pytest.mark.usefixtures("no_files")
def test_frames_are_not_reused() -> None:
    with pytest.raises(GeneralRuleError, match="can't reuse frames"):
        AdaTP()(build(LlavaOnevision), reuse_frames=0.1).__enter__()


def test_it_is_tried_on_what_reads_videos_and_nobody_registered() -> None:
    assert {"llava_onevision", "qwen2_vl", "internvl"} <= {*offered()}
    assert not {"llava", "qwen2", "mllama", "gemma3", "x_clip"} & {*offered()}
    of_thinkers = {name for name in offered() if f"{name}_thinker" in supported()}
    assert {*by_general_rule()} == {*offered()} - {*supported()} - of_thinkers
    with pytest.raises(UnsupportedModelError, match="'mllama' is not supported"):
        family_of("mllama")


def test_merged_patches() -> None:
    config = Qwen2VLConfig(vision_config={"spatial_merge_size": 2})
    assert by_patches([[3, 4, 6], [1, 2, 2]], 3 * 6 + 1, config) == [(3, 2, 3), (1, 1, 1)]
    assert by_patches([[4, 4, 4]], 8, config) == [(2, 2, 2)]  # two temporal steps become one
    assert by_patches([[2, 9, 9]], 18, LlavaOnevisionConfig()) == [(2, 3, 3)]
    assert by_patches([[4, 4, 4], [2, 4, 4]], 8, config) == [(1, 2, 2), (1, 2, 2)]  # all of a grid's
    for tokens in (7, 33):
        with pytest.raises(LayoutError, match="can't merge 64 patches"):
            by_patches([[4, 4, 4]], tokens, config)


def test_runs_of_placeholders() -> None:
    assert by_runs(32, [16, 16], None, (0, 0)) == (2, 4, 4)
    assert by_runs(32, [32], 2, (8, 8)) == (2, 4, 4)
    assert by_runs(32, [8] * 4, 2, (8, 8)) == (2, 4, 4)  # a run for each row
    assert by_runs(48, [24, 24], None, (20, 30)) == (2, 4, 6)
    for tokens, lengths, count in ((33, [17, 16], None), (32, [15, 17], None), (31, [31], 2)):
        with pytest.raises(LayoutError, match="can't share"):
            by_runs(tokens, lengths, count, (0, 0)) if count is None else by_runs(
                tokens, [16, 15], count, (0, 0)
            )


def test_the_shape_of_a_frame() -> None:
    assert rectangle(16, (0, 0)) == (4, 4)
    assert rectangle(17, (0, 0)) == (1, 17)
    assert rectangle(16, (10, 40)) == (2, 8)
    assert rectangle(12, (40, 30)) == (4, 3)


def test_outputs_of_any_form() -> None:
    flat = torch.zeros(6, 3)
    for output, sizes in (
        (flat, [6]),
        (flat.view(2, 3, 3), [3, 3]),
        ([flat[:2], flat[2:]], [2, 4]),
        ((flat,), [6]),
    ):
        assert [len(part) for part in parts_of(output)] == sizes
