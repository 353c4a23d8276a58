"""What several families share, by hand-made numbers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from adatp.layout import NO_CELL, Grid, LayoutError
from adatp.models import Family, TowerCall, family_of
from adatp.models.shared import FramesAsImages, PatchGrid, SelectedLayer
from adatp.models.shared.patch_grid import split_frames
from adatp.models.shared.square_frames import copies, encoder_layers, without_class_token

CONFIG = SimpleNamespace(
    video_token_id=8,
    image_token_id=9,
    vision_feature_layer=-2,
    vision_config=SimpleNamespace(hidden_size=6, image_size=8, patch_size=2, spatial_merge_size=2),
    text_config=SimpleNamespace(hidden_size=10),
)


class Costless(Family):
    """Answers what no test here asks."""

    def vision_flops(self, config: Any, grids: Sequence[Grid]) -> int:
        return 0


class Selected(SelectedLayer, Costless):
    newlines = 5  # more than a frame has tokens

    def side(self, config: Any) -> int:
        return 2


class Images(FramesAsImages, Costless):
    def side(self, config: Any) -> int:
        return 2


class Packed(PatchGrid, Costless):
    pass


def placed(family: Family, ids: list[int], grids: list[Grid]) -> list[int]:
    tokens = torch.tensor([ids])
    [layout] = family.layouts(CONFIG, {"input_ids": tokens}, tokens > 0, grids)
    return layout.index.tolist()


def call_of(**output: Any) -> TowerCall:
    return TowerCall({}, SimpleNamespace(**output))


def test_the_class_token_is_left_out_whether_there_is_one_or_not() -> None:
    states = torch.arange(2 * 10).view(2, 10)
    assert torch.equal(without_class_token(states), states[:, 1:])
    assert torch.equal(without_class_token(states[:, 1:]), states[:, 1:])


def test_prompts_are_copied_as_often_as_the_tower_has_not_read_their_frames() -> None:
    assert copies(6, call_of(last_hidden_state=torch.zeros(2, 1))) == 3
    assert copies(2, call_of(last_hidden_state=torch.zeros(2, 1))) == 1
    assert copies(0, call_of(last_hidden_state=torch.zeros(2, 1))) == 1
    assert copies(6, None) == 1


def test_layers_of_a_wrapped_tower() -> None:
    plain = SimpleNamespace(encoder=SimpleNamespace(layers=[1, 2]))
    assert encoder_layers(plain) == encoder_layers(SimpleNamespace(vision_model=plain)) == [1, 2]


def test_placeholders_of_a_video_with_newlines() -> None:
    assert Selected().grid(CONFIG, 3, 10, 20) == (3, 2, 2)
    [cells] = Selected().cells({}, [(2, 2, 2)]) or []
    assert cells.tolist() == [*range(8), *[NO_CELL] * 5]
    assert placed(Selected(), [5, *[8] * 9, 9, 5], [(1, 2, 2)]) == [1, 2, 3, 4]


def test_videos_that_were_encoded_before_the_call() -> None:
    call = {"mm_encoder_outputs": {"video": SimpleNamespace(pooler_output=torch.zeros(4, 3 * 4 + 5, 10))}}
    assert Selected().grids(CONFIG, call, None) == [(3, 2, 2)] * 4
    once = call_of(last_hidden_state=torch.zeros(2 * 3, 1))
    assert Selected().grids(CONFIG, call, once) == [(3, 2, 2)] * 2
    assert (
        Selected().grids(CONFIG, {"pixel_values_videos": torch.zeros(2, 5, 3, 8, 8)}, None) == [(5, 2, 2)] * 2
    )


@pytest.mark.parametrize(("layer", "selected"), [(-2, 1), (2, 1), ([-1, -3], 0), (-1, 2)])
def test_the_layer_that_leaves_the_selected_states(layer: Any, selected: int) -> None:
    """Hidden states 0 are the embeddings: states 2 are what layer 1 leaves."""
    layers = [SimpleNamespace(self_attn=number) for number in range(3)]
    tower = SimpleNamespace(encoder=SimpleNamespace(layers=layers))
    config = SimpleNamespace(vision_feature_layer=layer)
    model = SimpleNamespace(config=config, base_model=SimpleNamespace(vision_tower=tower))
    assert Selected().tower_attention_module(model) == selected
    states = [torch.full((1, 4, 6), number) for number in range(4)]
    features = Selected().features(config, call_of(hidden_states=states))
    assert torch.equal(features, states[selected + 1])


def test_attention_of_patches_is_pooled_to_tokens() -> None:
    received = torch.arange(2 * 17.0)  # two frames, a class token and 4 x 4 patches each
    [one, other] = Selected().tower_attention(CONFIG, TowerCall({}, None, received), [(1, 2, 2), (1, 2, 2)])
    assert one.tolist() == [3.5, 5.5, 11.5, 13.5]  # patches 1 2 5 6, numbered from 1
    assert (other - one).tolist() == [17.0] * 4


def test_projected_layers_side_by_side() -> None:
    assert Selected().projector_flops(CONFIG, 7) == 2 * 7 * (6 * 10 + 10 * 10)
    several = SimpleNamespace(**{**vars(CONFIG), "vision_feature_layer": [-1, -2, -3]})
    assert Selected().projector_flops(several, 7) == 2 * 7 * (3 * 6 * 10 + 10 * 10)


def test_images_of_a_prompt_are_one_video() -> None:
    ids = torch.tensor([[5, 9, 9, 9, 9, 5, 9, 9, 9, 9], [5] * 10])
    call: Mapping[str, Tensor] = {"input_ids": ids.repeat_interleave(2, 0)}
    once = call_of(last_hidden_state=torch.zeros(2, 1))
    assert Images().grids(CONFIG, call, once) == [(2, 2, 2)]
    assert Images().grids(CONFIG, call, None) == [(2, 2, 2)] * 2
    assert placed(Images(), ids[0].tolist(), [(2, 2, 2)]) == [1, 2, 3, 4, 6, 7, 8, 9]
    with pytest.raises(LayoutError, match="no video's frame"):
        Images().grids(CONFIG, {"input_ids": ids[:, :6]}, None)


def test_grids_in_patches_and_in_tokens() -> None:
    thw = torch.tensor([[2, 4, 6], [1, 2, 2]])
    tokens = [(2, 2, 3), (1, 1, 1)]
    assert Packed().grids(CONFIG, {"video_grid_thw": thw}, None) == tokens
    assert Packed().grids(CONFIG, {}, TowerCall({"grid_thw": thw}, None)) == tokens
    assert Packed().in_patches(CONFIG, tokens) == [tuple(grid) for grid in thw.tolist()]
    with pytest.raises(LayoutError, match="pass video_grid_thw"):
        Packed().grids(CONFIG, {}, None)
    assert Packed().grid(CONFIG, 3, 16, 25) == (3, 4, 6)  # a token is 4 x 4 pixels
    vision = SimpleNamespace(**vars(CONFIG.vision_config), temporal_patch_size=2)
    assert Packed().grid(SimpleNamespace(vision_config=vision), 3, 1, 25) == (2, 1, 6)


def test_patches_of_a_token_lie_next_to_each_other() -> None:
    grids, rows = [(2, 1, 2), (1, 1, 1)], torch.arange(20.0)
    features = split_frames(rows[:, None], grids, 4)
    assert [tuple(video.shape) for video in features] == [(2, 8, 1), (1, 4, 1)]
    assert torch.equal(torch.cat([video.flatten() for video in features]), rows)
    packed = Packed().frame_features(CONFIG, call_of(last_hidden_state=rows[:, None]), grids)
    assert all(map(torch.equal, packed, features))
    received = Packed().tower_attention(CONFIG, TowerCall({}, None, rows), grids)
    assert [video.tolist() for video in received] == [[1.5, 5.5, 9.5, 13.5], [17.5]]


def test_what_a_processor_is_given() -> None:
    """By default a video and nothing else."""
    processor = SimpleNamespace(video_processor=SimpleNamespace(use_token_compression=True))
    older = SimpleNamespace(video_processor=SimpleNamespace())
    assert Packed().takes_videos(processor)
    assert Packed().processor_options(processor, every_token=True) == {}
    assert not family_of("gemma3").takes_videos(older)
    ours = family_of("video_llama_3")
    assert ours.processor_options(processor, every_token=True) == {"use_token_compression": False}
    assert ours.processor_options(processor) == ours.processor_options(older, every_token=True) == {}
