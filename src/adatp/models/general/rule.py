"""A family for model types without a file: everything is derived from a prompt, and checked against it."""

from __future__ import annotations

import inspect
import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal, cast

import torch
from torch import Tensor, nn
from typing_extensions import override

from adatp.errors import PruningError
from adatp.layout import Grid, LayoutError, VideoLayout, build_layouts
from adatp.models.family import EncoderMethod, Family, TowerCall
from adatp.models.general.encoded import Encoded, parts_of
from adatp.models.general.placeholders import Placeholders, find_placeholders, other_tokens
from adatp.models.general.videos import grids_of
from adatp.tower_flops import plain_tower_flops

_TOWERS = ("visual", "vision_tower", "vision_model", "video_tower")


class GeneralRuleError(PruningError, ValueError):
    """The request needs a family file, because the general rule can't know the answer."""


def q_former_error() -> GeneralRuleError:
    """Why a model with a Q-Former is refused."""
    return GeneralRuleError(
        "a Q-Former has made a few tokens of each frame already, in an order without places: there "
        "is nothing to prune"
    )


class Derived(list[Grid]):
    """Grids of a batch's videos, with the placeholders that they were derived from.

    Attributes:
        placeholders: of all prompts.
        cells: see `Family.cells`.
    """

    def __init__(
        self, grids: Sequence[Grid], placeholders: Placeholders, cells: list[Tensor] | None = None
    ) -> None:
        super().__init__(grids)
        self.placeholders, self.cells = placeholders, cells


class GeneralRule(Family):
    """Placeholders from the config's ids, counts from the method's output, grids from its input.

    Args:
        model: the model that generates; None: its config alone is known.
    """

    by_rule = True

    def __init__(self, model: Any = None) -> None:
        self._newline: Any = None
        self._method = "get_video_features"
        base = getattr(model, "base_model", None)
        if base is None:
            return
        self._newline = getattr(base, "image_newline", None)
        if not callable(getattr(base, self._method, None)):
            self._method = "get_image_features"
        takes = "pixel_values_videos" in _parameters(base)
        kind = "video" if takes or self._method == "get_video_features" else "image"
        self.encoded_as = cast(Literal["video", "image"], kind)  # type: ignore[misc]

    @override
    def of(self, model: Any) -> Family:
        if isinstance(getattr(model.base_model, "qformer", None), nn.Module):
            raise q_former_error()
        return type(self)(model)

    @override
    def encoder(self, model: Any) -> EncoderMethod:
        return EncoderMethod(model.base_model, self._method, parts_of)

    def tower(self, model: Any) -> nn.Module:
        """The vision tower under one of its usual names, or the complete model. It is not watched."""
        found = self.lone_tower(model)
        return found if found is not None else cast(nn.Module, model.base_model)

    @override
    def lone_tower(self, model: Any) -> nn.Module | None:
        found = [getattr(model.base_model, name, None) for name in _TOWERS]
        return next((module for module in found if isinstance(module, nn.Module)), None)

    def tower_attention_module(self, model: Any) -> nn.Module:
        """Not known without a family file."""
        raise GeneralRuleError(
            "a method that reads the vision tower's attention needs a family file for this model "
            "(CONTRIBUTING.md)"
        )

    def tower_attention(self, config: Any, tower: TowerCall, grids: Sequence[Grid]) -> list[Tensor]:
        """Not known without a family file."""
        raise GeneralRuleError("the general rule does not know the vision tower's attention")

    def grid(self, config: Any, frames: int, height: int, width: int) -> Grid:
        """The grid by patch and merge size, for towers that take frames of any size."""
        vision = getattr(config, "vision_config", None)
        merge, patch = (getattr(vision, name, None) for name in ("spatial_merge_size", "patch_size"))
        if not isinstance(merge, int) or not isinstance(patch, int):
            raise LayoutError(
                "the general rule learns how many tokens a frame has from a prompt alone: "
                "`adatp ask` makes one"
            )
        steps = -(-frames // getattr(vision, "temporal_patch_size", 1))
        rows, columns = (max(1, round(length / (patch * merge))) for length in (height, width))
        return steps, rows, columns

    def grids(self, config: Any, call: Mapping[str, Any], tower: TowerCall | None) -> list[Grid]:
        """Grids derived again for every batch. Without the tower's call, only from the prompts."""
        images = self.encoded_as == "image"
        if tower is None:
            placeholders = find_placeholders(config, call["input_ids"], None, images)
            guessed = [placeholders.mask.new_zeros(count, 1) for count in placeholders.counts if count]
            shapes = {name: tuple(value.shape) for name, value in call.items() if _is_pixels(value)}
            encoded = Encoded.of(TowerCall(call, guessed, shapes=shapes))
            return Derived(grids_of(config, encoded, placeholders, images), placeholders)
        encoded = Encoded.of(tower, self._newline)
        placeholders = find_placeholders(config, call["input_ids"], encoded.tokens, images)
        return Derived(grids_of(config, encoded, placeholders, images), placeholders, encoded.cells())

    def layouts(
        self, config: Any, call: Mapping[str, Any], real: Tensor, grids: Sequence[Grid]
    ) -> list[VideoLayout]:
        """Layouts that account for every placeholder. Otherwise nothing is laid out."""
        assert isinstance(grids, Derived)
        ids: Tensor = call["input_ids"]
        marked = ids.masked_fill(grids.placeholders.mask, _MARK)
        return build_layouts(
            marked, real, grids, video_token_id=_MARK, not_text=other_tokens(config), cells=grids.cells
        )

    def frame_features(self, config: Any, tower: TowerCall, grids: Sequence[Grid]) -> list[Tensor]:
        """(frames, patches, d) projected tokens, since the place of the tower's own features is not known."""
        videos = torch.split(Encoded.of(tower, self._newline).features(), [math.prod(grid) for grid in grids])
        return [video.view(grid[0], -1, video.shape[1]) for video, grid in zip(videos, grids, strict=True)]

    def vision_flops(self, config: Any, grids: Sequence[Grid]) -> int:
        """An estimate: a plain transformer with the sizes of the vision config, or 0 without sizes."""
        vision = getattr(config, "vision_config", None)
        merge = getattr(vision, "spatial_merge_size", 1)
        frames = [
            (grid[0], math.prod(grid[1:]) * (merge if isinstance(merge, int) else 1) ** 2) for grid in grids
        ]
        return plain_tower_flops(vision, frames)

    def takes_videos(self, processor: Any) -> bool:
        """Whether it has a video processor."""
        return getattr(processor, "video_processor", None) is not None

    def fewest_frames(self, processor: Any) -> int:
        """The frames of one temporal step, and at least two if a single frame looks the same as an image."""
        reader = getattr(processor, "video_processor", None)
        step = getattr(reader, "temporal_patch_size", 1)
        return max(step if isinstance(step, int) else 1, 2 if self.encoded_as == "image" else 1)


_MARK = -1


def _is_pixels(value: Any) -> bool:
    return isinstance(value, Tensor) and value.is_floating_point()


def _parameters(base: Any) -> Sequence[str]:
    return list(inspect.signature(base.forward).parameters)
