"""A video of several questions is encoded once, and nothing else changes, for every family."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from adatp import AdaTP
from adatp.methods import Vanilla
from adatp.models import family_of
from adatp.session.encode_once import EncodeOnce
from agreement import Agree
from families import FAMILIES, Prompt, Qwen25VL, batch, build
from rounding import limit

families = pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.name)


def logits(model: Any, inputs: Any, method: Any) -> Any:
    with method(model) as run, torch.no_grad():
        return model(**inputs).logits[:, -1], run.report


def opened(model: Any) -> EncodeOnce:
    return EncodeOnce(family_of(model.config.model_type).tower(model))


@families
def test_equal_videos_of_a_batch_are_encoded_once(family: Any, agree: Agree) -> None:
    model = build(family)
    inputs = batch(family, [Prompt(seed=1), Prompt(before=5, seed=2), Prompt(before=4, seed=1)])
    expected, _ = logits(model, inputs, Vanilla())
    with opened(model) as once:
        once.show("aba")
        found, _ = logits(model, inputs, Vanilla())
        assert (once.encoded, once.shared) == (2, 1)
    agree(found, expected, within=limit(family))
    assert "forward" not in vars(once.tower)


@families
def test_a_video_that_comes_again_is_remembered(family: Any, agree: Agree) -> None:
    model, method = build(family), AdaTP(flops=0.5)
    first = batch(family, [Prompt(seed=1), Prompt(before=5, seed=1)])
    then = batch(family, [Prompt(before=2, seed=1)])
    expected = [logits(model, each, method) for each in (first, then)]
    with opened(model) as once:
        once.show("aa", again="a")
        found = [logits(model, first, method)]
        once.show("a")
        found.append(logits(model, then, method))
        assert (once.encoded, once.shared) == (1, 2)
        once.show("a")  # was not asked to remember it any longer
        logits(model, then, method)
        assert once.encoded == 2
    for (mine, report), (theirs, other) in zip(found, expected, strict=True):
        agree(mine, theirs, within=limit(family))
        assert all(
            torch.equal(a, b)
            for x, y in zip(report.kept, other.kept, strict=True)
            for a, b in zip(x, y, strict=True)
        )


def test_videos_that_are_said_to_be_equal_and_are_not_are_encoded(agree: Agree) -> None:
    model = build(Qwen25VL)
    inputs = batch(Qwen25VL, [Prompt(seed=1), Prompt(seed=2)])
    expected, _ = logits(model, inputs, Vanilla())
    with opened(model) as once:
        once.show("aa")
        agree(logits(model, inputs, Vanilla())[0], expected)
        assert once.encoded == 2
        once.show("abc")  # three pieces of two videos
        agree(logits(model, inputs, Vanilla())[0], expected)
        logits(model, inputs, Vanilla())  # nothing is said of these
    assert once.shared == 0


def test_a_forward_that_somebody_else_put_there_comes_back() -> None:
    model = build(Qwen25VL)
    tower = family_of(model.config.model_type).tower(model)
    theirs = tower.forward = tower.forward
    with opened(model):
        assert tower.forward is not theirs
    assert vars(tower)["forward"] is theirs
