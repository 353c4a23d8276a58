"""Layouts of what the families' real processors make, checked against the pixels that went in."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import transformers

from adatp.layout import LayoutError, VideoLayout
from adatp.models import TowerCall, decoder_of, family_of
from families import FAMILIES, IMAGE, VIDEO, Gemma3, Glm4v, InternVL, SmolVLM, VideoLlama3, VideoLlava, build
from processors import PROCESSORS
from prompts import asked, frames, prompt, sampled

families = pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.name)

UNABLE = {  # the last transformers whose processor can't be called like those of the others, and why
    VideoLlava: ((5, 12), "takes no frames that are sampled already"),
    SmolVLM: ((5, 16), "takes the frames of an array for videos"),
}


def processor_of(family: Any) -> Any:
    version = transformers.__version__
    last, reason = UNABLE.get(family, ((0, 0), ""))
    if tuple(map(int, version.split(".")[:2])) <= last:
        pytest.skip(f"the processor of transformers {version} {reason}")
    return PROCESSORS[family]()


def layouts_of(family: Any, inputs: dict[str, Any]) -> list[VideoLayout]:
    config, ours = family.config(), family_of(family.name)
    grids = ours.grids(config, inputs, None)
    return ours.layouts(config, inputs, inputs["attention_mask"].bool(), grids)


@families
def test_layouts_of_real_processors(family: Any) -> None:
    processor = processor_of(family)
    takes_videos = getattr(processor, "video_processor", None) is not None
    assert family_of(family.name).takes_videos(processor) == takes_videos
    questions = ["what is the red ball ?", "which dog runs ?"]
    inputs = asked(processor, questions, [frames(6), frames(6, seed=1)])
    grid = family.grid(6, 24, 40)
    for b, layout in enumerate(layouts_of(family, inputs)):
        assert layout.grids == (grid,)
        placeholders = (inputs["input_ids"][b] == family.token).nonzero().squeeze(1)
        assert torch.equal(layout.index, family.shown(placeholders))  # a newline is none of them
        assert len(layout.index) == np.prod(grid)
        assert torch.equal(
            torch.stack([layout.frame, layout.row, layout.column], 1),
            torch.cartesian_prod(*map(torch.arange, grid)),
        )
        assert torch.equal(layout.position, layout.row * grid[2] + layout.column)
        words = processor.tokenizer.decode(inputs["input_ids"][b, layout.question]).split()
        assert questions[b] in " ".join(words)
        assert torch.equal(layout.real, inputs["attention_mask"][b].nonzero().squeeze(1))


@pytest.mark.parametrize(
    "family", [f for f in FAMILIES if f.several_videos and f.images_beside], ids=lambda family: family.name
)
def test_several_videos_among_images(family: Any) -> None:
    processor = processor_of(family)
    inputs = processor(
        text=[prompt(processor, "video", "image", "video", "what moves first ?", "image")],
        images=[frames(1, 16, 16)[0], frames(1, 16, 16)[0]],
        videos=[frames(4), frames(4, seed=1)],
        return_tensors="pt",
        **sampled(4, 4),
    )
    (layout,) = layouts_of(family, inputs)
    assert layout.videos == (0, 1)
    ids = inputs["input_ids"][0]
    assert (ids[layout.index] == family.token).all()
    steps = 4 // family.step
    assert layout.frames == 2 * steps
    assert torch.equal(layout.frame.unique(), torch.arange(2 * steps))
    assert torch.equal(layout.video, (layout.frame >= steps).long())
    assert (layout.index.diff()[layout.video.diff() == 1] > 4).all()  # the image lies between
    assert not torch.isin(ids[layout.question], torch.tensor([IMAGE, VIDEO])).any()
    assert (layout.question > layout.index[-1]).all()


@families
@pytest.mark.parametrize("observed", ["rows", "columns", "frames"])
def test_a_layout_names_what_a_token_shows(family: Any, observed: str) -> None:
    """Brighten one frame, row or column of pixels: the tokens whose embeddings change are those named."""
    model = build(family)
    ours = family_of(family.name)
    with torch.no_grad():  # attention would carry what changes to the complete frame
        for name, parameter in ours.tower(model).named_parameters():
            if any(part in name for part in ("out_proj", "attn.proj", "attention.projection_layer")):
                parameter.zero_()
    count, tower = 4, []
    handle = ours.tower(model).register_forward_hook(
        lambda _, args, kwargs, output: tower.append(TowerCall(kwargs, output)), with_kwargs=True
    )
    processor = processor_of(family)
    half = family.side // 2
    video = frames(family.step * count, 2 * half, 2 * half) // 4  # nothing stands still
    shown = video.copy()
    third = shown[2 * family.step : 3 * family.step]
    part = {"frames": third, "rows": shown[:, :half], "columns": shown[:, :, half:]}[observed]
    part += 150
    plain, bright = (asked(processor, ["what ?"], [each]) for each in (video, shown))
    ((before,), (after,)) = (family.encode(model, inputs) for inputs in (plain, bright))
    handle.remove()
    (layout,) = layouts_of(family, plain)
    change = family.shown(before - after).norm(dim=1)
    half = layout.grids[0][1] // 2
    named = {"frames": layout.frame == 2, "rows": layout.row < half, "columns": layout.column >= half}[
        observed
    ]
    assert (change[named] > 0).all()
    assert (change[~named] == 0).all()
    features = ours.frame_features(model.config, tower[1], ours.grids(model.config, plain, tower[1]))
    assert [part.shape[:2] for part in features] == [(count, family.features_a_frame)]
    if observed == "frames":
        moved = (features[0] - ours.frame_features(model.config, tower[0], layout.grids)[0]).norm(dim=(1, 2))
        assert torch.equal(moved > 0, torch.arange(count) == 2)


def changing_cells(changes: list[list[int]], seed: int = 0) -> np.ndarray:
    """A video of 24 x 40 pixels, noise in which only these of its 3 x 5 cells change from frame to frame."""
    fresh = frames(1 + len(changes), seed=seed) // 2
    shown = [fresh[0]]
    for number, cells in enumerate(changes, 1):
        shown.append(shown[-1].copy())
        for row, column in (divmod(cell, 5) for cell in cells):
            part = slice(8 * row, 8 * row + 8), slice(8 * column, 8 * column + 8)
            shown[-1][part] = fresh[number][part] + 128 * (number % 2)
    return np.stack(shown)


CHANGES = [[0, 7], [14], [], [3, 4, 8, 9]], [[], list(range(15)), [5], [5, 6]]


@torch.no_grad()
def test_tokens_that_videollama3s_processor_leaves_out() -> None:
    processor = PROCESSORS[VideoLlama3]()
    inputs = processor(
        text=[prompt(processor, "video", question) for question in ("what ?", "which dog runs ?")],
        videos=[changing_cells(changes, seed) for seed, changes in enumerate(CHANGES)],
        padding=True,
        return_tensors="pt",
        **sampled(5, 5),
    )
    layouts = layouts_of(VideoLlama3, inputs)
    for b, (layout, changes) in enumerate(zip(layouts, CHANGES, strict=True)):
        assert layout.grids == ((5, 3, 5),)
        assert not layout.complete
        runs = [[*range(15)], *([*cells] or [0] for cells in changes)]  # of a still frame the first stays
        assert layout.cell.tolist() == [15 * frame + cell for frame, run in enumerate(runs) for cell in run]
        assert layout.tokens_by_frame.tolist() == list(map(len, runs))
        assert torch.equal(layout.index, (inputs["input_ids"][b] == VIDEO).nonzero().squeeze(1))
        [kept] = layout.on_grid(layout.index[3:])
        assert kept.flatten().nonzero().squeeze(1).tolist() == layout.cell[3:].tolist()

    # Change one cell's pixels after the processor: its placeholder alone is another, if it has one.
    model, embeds = build(VideoLlama3), []
    for name, parameter in model.base_model.vision_model.named_parameters():
        if "out_proj" in name:  # attention would carry the change to the complete frame
            parameter.zero_()
    decoder_of(model).register_forward_pre_hook(
        lambda _, args, kwargs: embeds.append(kwargs["inputs_embeds"]), with_kwargs=True
    )
    model(**inputs)
    for sample, cell in ((0, 0), (0, 15 + 7), (0, 15 + 8), (1, 15), (1, 2 * 15 + 14), (1, 4 * 15 + 4)):
        pixels = inputs["pixel_values_videos"].clone()
        pixels[4 * (75 * sample + cell) : 4 * (75 * sample + cell) + 4] += 1  # four patches side by side
        model(**{**inputs, "pixel_values_videos": pixels})
        moved = (embeds[-1] - embeds[0]).norm(dim=-1) > 0
        expected = torch.zeros_like(moved)
        expected[sample, layouts[sample].index[layouts[sample].cell == cell]] = True
        assert torch.equal(moved, expected)
        assert moved.any() == (cell not in (15 + 8, 4 * 15 + 4))


def test_patches_merged_in_another_way_are_refused() -> None:
    call = {"video_grid_thw": torch.tensor([[2, 4, 4]]), "video_merge_sizes": torch.tensor([1])}
    with pytest.raises(LayoutError, match="two by two"):
        family_of("video_llama_3").grids(VideoLlama3.config(), call, None)


@pytest.mark.parametrize("family", [InternVL, SmolVLM, Gemma3], ids=lambda family: family.name)
@pytest.mark.parametrize("lengths", [[16], [32, 16]], ids=["a-lone-picture", "several-crops"])
def test_what_is_no_frame_is_not_laid_out(family: Any, lengths: list[int]) -> None:
    ids = torch.tensor([[token for length in lengths for token in (5, *[IMAGE] * length)]])
    with pytest.raises(LayoutError, match="no video's frame"):
        family_of(family.name).grids(family.config(), {"input_ids": ids}, None)


def test_an_image_beside_a_video_of_glm_is_no_part_of_it() -> None:
    ids = torch.tensor([[94, *[IMAGE] * 16, 95, *Glm4v.visual(3), 5, 94, *[IMAGE] * 16, 95, 6]])
    call = {"input_ids": ids, "video_grid_thw": torch.tensor([[3, 8, 8]])}
    ours, config = family_of("glm4v"), Glm4v.config()
    (layout,) = ours.layouts(config, call, ids > 0, ours.grids(config, call, None))
    shown = (ids[0] == IMAGE).nonzero().squeeze(1)
    assert torch.equal(layout.index, shown[16:-16])
    assert not torch.isin(layout.question, shown).any()


def test_grids_of_glms_videos_are_distinguished() -> None:
    steps = torch.tensor([[1, 8, 8]] * 3 + [[1, 4, 8]] * 2)
    encoded = SimpleNamespace(pooler_output=[torch.zeros(3 * 16, 32), torch.zeros(2 * 8, 32)])
    tower = TowerCall({"grid_thw": steps}, encoded)
    assert family_of("glm4v").grids(Glm4v.config(), {}, tower) == [(3, 4, 4), (2, 2, 4)]
