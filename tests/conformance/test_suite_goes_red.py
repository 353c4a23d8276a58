"""The suite sees what it is there to see: with the engine broken in one place, the check of that place fails.

Each check is the very test of the suite, called with one family; it has to fail by what it asserts, not by
a crash.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import test_conformance as checks
import torch
from torch import Tensor

import fake_flash
from adatp import engine
from adatp.engine import Engine, Kept, _DeepStack, _PrunedCache
from adatp.methods.adatp import AdaTPPlan
from adatp.plan import Selection
from agreement import Agree, DisagreementError
from families import LlavaOnevision, Qwen3VL
from suite import EARLY, EQUAL, LATE, ONE, RAGGED

Patch = pytest.MonkeyPatch
first_scores = checks.first_scores


@dataclass
class Red:
    """A check, whom it is asked of, and what it fails by."""

    check: Callable[..., None]
    arguments: dict[str, Any]
    by: str | None = "the largest difference is"
    at_least: float = 1e-3
    family: Any = LlavaOnevision

    def show(self, request: pytest.FixtureRequest) -> None:
        given = {"family": self.family, "prune": LATE, "agree": Agree(), **self.arguments}
        names = inspect.signature(self.check).parameters
        given |= {name: request.getfixturevalue(name) for name in names if name not in given}
        with pytest.raises(AssertionError, match=self.by) as failed:
            self.check(**{name: given[name] for name in names})
        if isinstance(failed.value, DisagreementError):
            assert failed.value.error > self.at_least


def dropping(attention: str, prompts: Any, cache: str | None = None, **more: Any) -> Red:
    arguments = {"attention": attention, "prompts": prompts, "cache": cache, "dtype": torch.float32}
    return Red(checks.test_dropping_equals_masking, arguments, **more)


def decode_mask_unmapped(monkeypatch: Patch) -> Red:
    """Masks of a decode step stay as wide as the whole sequence; a static cache takes them."""
    remap = Engine._remap

    def in_prefill(self: Engine, call: Any, number: int, kwargs: dict[str, Any]) -> dict[str, Any]:
        return {} if call.plan is None else remap(self, call, number, kwargs)

    monkeypatch.setattr(Engine, "_remap", in_prefill)
    return dropping("eager", ONE, "static")


def keep_order_unsorted(monkeypatch: Patch) -> Red:
    """Visual tokens go on in the order of their scores, or in any but that of the prompt."""
    select = AdaTPPlan.select

    def unsorted(self: AdaTPPlan, layer: int, sample: int, *rest: Any) -> Selection:
        kept = select(self, layer, sample, *rest).kept.clone()
        visual = torch.isin(kept, self.samples[sample].layout.index)
        kept[visual] = kept[visual].flip(0)
        return Selection(kept)

    monkeypatch.setattr(AdaTPPlan, "select", unsorted)
    return dropping("sdpa", ONE)


def gapped_position_ids(monkeypatch: Patch) -> Red:
    """Flash attention takes a gap for the seam of two packed sequences."""

    def gapped(position_ids: Tensor, index: Tensor) -> Tensor:
        return position_ids[..., :1] + index

    monkeypatch.setattr(engine, "_contiguous", gapped)
    return dropping(fake_flash.NAME, ONE, by="packed")


def first_layer_pruned(monkeypatch: Patch) -> Red:
    """Transformers sizes masks and counts positions by the first layer's cache, cut short."""
    monkeypatch.setattr(_PrunedCache, "_missing", lambda self, layer: 0)
    return Red(
        checks.test_a_pruned_cache_looks_like_a_whole_one,
        {"static": False, "prune": EARLY},
        by="get_seq_length",
    )


def rotary_positions_recounted(monkeypatch: Patch) -> Red:
    """Kept tokens are rotated by their place among those kept."""

    def recounted(rotary: tuple[Tensor, ...], index: Tensor) -> tuple[Tensor, ...]:
        return tuple(part[..., : index.shape[1], :] for part in rotary)

    monkeypatch.setattr(engine, "_gather_rotary", recounted)
    return dropping("sdpa", ONE)


def fillers_seen(monkeypatch: Patch) -> Red:
    """Rows of a batch that kept fewer tokens attend to what fills them up."""
    hold = engine._hold

    def even(*args: Any) -> Kept:
        kept = hold(*args)
        return Kept(kept.index.where(kept.index >= 0, kept.end - 1), kept.end, kept.ragged)

    monkeypatch.setattr(engine, "_hold", even)
    return dropping("sdpa", RAGGED)


def masks_where_none_is_needed(monkeypatch: Patch) -> Red:
    """Equal rows are given a mask all the same, and lose the fast kernel."""
    remap_mask = engine.remap_mask

    def always(mask: Tensor | None, kept: Kept, *rest: Any) -> Tensor | None:
        return remap_mask(mask, Kept(kept.index, kept.end, ragged=True), *rest)

    monkeypatch.setattr(engine, "remap_mask", always)
    return Red(checks.test_equal_prompts_keep_the_mask_free_kernel, {}, by=r"== \[False")


def neighbours_scored(monkeypatch: Patch) -> Red:
    """The rows scored are those in front of the question's."""
    rows_of = engine._Call.rows_of

    def one_too_early(self: Any, positions: Tensor, sample: int) -> Tensor:
        return rows_of(self, positions, sample) - 1

    arm = Engine._arm

    def arm_wrongly(self: Engine, call: Any, plan: Any, number: int) -> None:
        with monkeypatch.context() as patch:
            patch.setattr(engine._Call, "rows_of", one_too_early)
            arm(self, call, plan, number)

    monkeypatch.setattr(Engine, "_arm", arm_wrongly)
    return Red(checks.test_scores_equal_eager_rows, {"attention": "sdpa"}, at_least=1e-4)


def states_left_where_they_are(monkeypatch: Patch) -> Red:
    """What the last layer leaves is handed on in a row, with zeros at the end."""

    def in_a_row(states: Tensor, index: Tensor, length: int) -> Tensor:
        return torch.nn.functional.pad(states, (0, 0, 0, length - states.shape[1]))

    monkeypatch.setattr(engine, "scatter_rows", in_a_row)
    return Red(checks.test_outputs_stand_at_their_positions, {"attention": "sdpa"}, by=None)


def states_touched_when_all_are_kept(monkeypatch: Patch) -> Red:
    """One unit in the last place is a bit too many."""
    before = Engine._before

    def nudged(self: Engine, number: int, layer: Any, args: Any, kwargs: Any) -> Any:
        before(self, number, layer, args, kwargs)
        hidden = args[0] if args else kwargs.pop("hidden_states")
        return (hidden * (1 + 2**-23), *args[1:]), kwargs

    monkeypatch.setattr(Engine, "_before", nudged)
    return Red(checks.test_keep_all_is_bit_identical, {"attention": "sdpa", "prompts": EQUAL}, at_least=0)


def deepstack_misaddressed(monkeypatch: Patch) -> Red:
    """DeepStack's features are added to the tokens beside those they belong to."""
    add = _DeepStack.add

    def beside(self: _DeepStack, layer: int, states: Tensor, index: Tensor | None) -> Tensor:
        return add(self, layer, states, None if index is None else index.roll(1, 1))

    monkeypatch.setattr(_DeepStack, "add", beside)
    return dropping("sdpa", ONE, family=Qwen3VL)


def rows_forgotten(monkeypatch: Patch) -> Red:
    """The cache's rows move, what it knows of them does not."""
    monkeypatch.setattr(_PrunedCache, "_map", lambda self, change: None)
    return Red(checks.test_a_cache_whose_rows_move_remembers_them, {"change": "reorder"})


def hooks_left_behind(monkeypatch: Patch) -> Red:
    """Leaving takes nothing away."""
    monkeypatch.setattr(Engine, "remove", lambda self: None)
    return Red(checks.test_leaving_restores_everything, {"fails": False}, by="Differing items")


MUTATIONS = [
    decode_mask_unmapped,
    keep_order_unsorted,
    gapped_position_ids,
    first_layer_pruned,
    rotary_positions_recounted,
    fillers_seen,
    masks_where_none_is_needed,
    neighbours_scored,
    states_left_where_they_are,
    states_touched_when_all_are_kept,
    deepstack_misaddressed,
    rows_forgotten,
    hooks_left_behind,
]


@pytest.mark.parametrize("mutation", MUTATIONS, ids=lambda mutation: mutation.__name__)
def test_the_suite_goes_red(
    mutation: Callable[[Patch], Red], monkeypatch: Patch, request: pytest.FixtureRequest
) -> None:
    mutation(monkeypatch).show(request)
