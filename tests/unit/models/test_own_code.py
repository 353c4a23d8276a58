"""Models that come with code of their own: by the general rule, where the caller lets that code run."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from adatp import AdaTP, Session, UnsupportedModelError
from adatp.models import registry
from own_code import OwnVideoForCausalLM, save_checkpoint

VIDEO = np.random.default_rng(0).integers(0, 255, (8, 32, 32, 3), dtype=np.uint8)
QUESTION = "what is the red ball ?"


@pytest.fixture(autouse=True)
def nothing_allowed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "_by_rule", set())


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    """Weights, a processor, and the code that reads them."""
    return save_checkpoint(tmp_path / "checkpoint")


def test_a_session_prunes_it_where_its_code_is_trusted(checkpoint: Path) -> None:
    session = Session(checkpoint, trust_remote_code=True)
    assert type(session.model).__module__.startswith("transformers_modules")
    answer = session.ask(VIDEO, QUESTION, AdaTP(flops=0.6), frames=8, max_new_tokens=4)
    report = answer.report
    assert report is not None
    assert report.prompt_visual_tokens == [4 * 4 * 4]
    assert report.visual_tokens[-1] < report.visual_tokens[0]
    assert report.flops_ratio <= 0.6


def test_its_code_does_not_run_unasked(checkpoint: Path) -> None:
    with pytest.raises(UnsupportedModelError, match=r"'own_video_llm' is not supported.*--trust-remote-code"):
        Session(checkpoint)


@torch.no_grad()
def test_a_model_that_the_caller_loaded_needs_no_permission(checkpoint: Path) -> None:
    """Its code runs already. What the layout says, the embeddings show."""
    model = OwnVideoForCausalLM.from_pretrained(checkpoint).eval()
    thw = torch.tensor([[3, 4, 6]])
    ids = torch.tensor([[1, 2, *[91] * 18, 5, 6, 7]])
    pixels = torch.randn(72, 96, generator=torch.Generator().manual_seed(0))
    with AdaTP(flops=0.8)(model) as run:
        model(input_ids=ids, pixel_values_videos=pixels, video_grid_thw=thw)
        [layout] = run.layouts
    assert layout.grids == ((3, 2, 3),)
    assert layout.index.tolist() == [*range(2, 20)]
    seen: list[torch.Tensor] = []
    model.llm.register_forward_pre_hook(
        lambda _, args, kwargs: seen.append(kwargs["inputs_embeds"]), with_kwargs=True
    )
    changed = pixels.clone()
    changed[2 * 24 + 4 * 4 : 2 * 24 + 4 * 5] += 1  # the patches of the third frame's fifth token
    for given in (pixels, changed):
        model(input_ids=ids, pixel_values_videos=given, video_grid_thw=thw)
    moved = (seen[1] - seen[0])[0].norm(dim=1) > 0
    place = (layout.frame == 2) & (layout.row == 1) & (layout.column == 1)
    assert moved.nonzero().flatten().tolist() == layout.index[place].tolist()
