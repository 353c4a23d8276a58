"""Layouts of what the real processors of more families make, checked against the pixels that went in."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from adatp import AdaTP
from adatp.models import decoder_of, family_of
from families import build
from more_families import MORE
from more_processors import PROCESSORS
from prompts import asked, frames

HEIGHT, WIDTH, COUNT = 32, 48, 6
SQUARES = ("perception_lm",)  # all frames become one square
POOLED_IN_TIME = ("kimi_k25",)  # four frames become one, or those that are left
ONE_PROMPT = ("nemotron_h_omni",)  # its processor takes the videos of one prompt at a time

pytestmark = pytest.mark.filterwarnings("ignore:__array_wrap__")  # MiniCPM's processor gives numpy tensors
families = pytest.mark.parametrize(
    "family", [family for family in MORE if family in PROCESSORS], ids=lambda family: family.name
)


def layouts_of(model: Any, inputs: dict[str, torch.Tensor]) -> list[Any]:
    """As one call of the model has them."""
    with AdaTP(flops=0.9)(model) as run, torch.no_grad():
        model(**{name: part for name, part in inputs.items() if isinstance(part, torch.Tensor)})
    return run.layouts


@families
def test_layouts_of_real_processors(family: Any) -> None:
    processor = PROCESSORS[family]()
    questions = ["what is the red ball ?", "which dog runs ?"]
    videos = [frames(COUNT, HEIGHT, WIDTH), frames(COUNT, HEIGHT, WIDTH, seed=1)]
    count = 1 if family.name in ONE_PROMPT else 2
    inputs = asked(
        processor, questions[:count], videos[:count], **family_of(family.name).processor_options(processor)
    )
    for b, layout in enumerate(layouts_of(build(family), inputs)):
        ids = inputs["input_ids"][b]
        assert torch.equal(layout.index, (ids == family.token).nonzero().squeeze(1))
        [grid] = layout.grids
        assert grid[0] == (2 if family.name in POOLED_IN_TIME else COUNT // family.step)
        assert grid[2] > grid[1] or family.name in SQUARES  # frames are wider than high
        assert layout.complete
        assert torch.equal(layout.frame.unique(), torch.arange(grid[0]))
        words = processor.tokenizer.decode(ids[layout.question]).split()
        assert questions[b] in " ".join(words)
        assert torch.equal(layout.real, inputs["attention_mask"][b].nonzero().squeeze(1))


@families
def test_a_layout_names_the_frame_that_a_token_shows(family: Any) -> None:
    """Brighten some frames of pixels: the tokens whose embeddings change are those of their frame."""
    model, processor, given = build(family), PROCESSORS[family](), []
    decoder_of(model).register_forward_pre_hook(
        lambda _, args, kwargs: given.append(kwargs["inputs_embeds"][0]), with_kwargs=True
    )
    step = 4 if family.name in POOLED_IN_TIME else family.step
    video = frames(2 * step, HEIGHT, WIDTH) // 4
    shown = video.copy()
    shown[step:] += 150
    options = family_of(family.name).processor_options(processor)
    plain, bright = (asked(processor, ["what is ?"], [each], **options) for each in (video, shown))
    [layout] = layouts_of(model, plain)
    layouts_of(model, bright)
    moved = (given[1] - given[0]).norm(dim=1) > 0
    assert torch.equal(moved.nonzero().squeeze(1), layout.index[layout.frame == 1])
