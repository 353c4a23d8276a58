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
import torch
from torch import Tensor

import fake_flash
import test_batches
import test_caches
import test_contexts
import test_dropping
import test_keep_all
import test_outputs
import test_scores
from adatp.engine import Engine, attention, cache, hooks
from adatp.engine.deepstack import DeepStack
from adatp.engine.slots import CacheSlots
from adatp.methods.token_plan import LiveTokens
from adatp.plan import Selection
from agreement import Agree, DisagreementError
from families import LlavaOnevision, Qwen3VL
from suite import EARLY, EQUAL, LATE, ONE, RAGGED

Patch = pytest.MonkeyPatch


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
    return Red(test_dropping.test_dropping_equals_masking, arguments, **more)


def decode_mask_unmapped(monkeypatch: Patch) -> Red:
    """Masks of a decode step stay as wide as the complete sequence; a static cache takes them."""
    remap_mask = hooks.remap_mask

    def in_prefill(mask: Tensor | None, slots: CacheSlots, index: Tensor | None, *rest: Any) -> Tensor | None:
        return mask if index is None else remap_mask(mask, slots, index, *rest)

    monkeypatch.setattr(hooks, "remap_mask", in_prefill)
    return dropping("eager", ONE, "static")


def keep_order_unsorted(monkeypatch: Patch) -> Red:
    """Visual tokens go on in the order of their scores, or in any but that of the prompt."""
    keep = LiveTokens.keep

    def unsorted(self: LiveTokens, *rest: Any) -> Selection:
        kept = keep(self, *rest).kept.clone()
        visual = torch.isin(kept, self.layout.index)
        kept[visual] = kept[visual].flip(0)
        return Selection(kept)

    monkeypatch.setattr(LiveTokens, "keep", unsorted)
    return dropping("sdpa", ONE)


def gapped_position_ids(monkeypatch: Patch) -> Red:
    """Flash attention takes a gap for the seam of two packed sequences."""

    def gapped(position_ids: Tensor, index: Tensor) -> Tensor:
        return position_ids[..., :1] + index

    monkeypatch.setattr(hooks, "contiguous_positions", gapped)
    return dropping(fake_flash.NAME, ONE, by="packed")


def first_layer_pruned(monkeypatch: Patch) -> Red:
    """Transformers sizes masks and counts positions by the first layer's cache, cut short."""
    monkeypatch.setattr(cache, "missing_slots", lambda held: 0)
    return Red(
        test_caches.test_a_pruned_cache_looks_like_a_complete_one,
        {"static": False, "prune": EARLY},
        by="get_seq_length",
    )


def rotary_positions_recounted(monkeypatch: Patch) -> Red:
    """Kept tokens are rotated by their place among those kept."""

    def recounted(rotary: tuple[Tensor, ...], index: Tensor) -> tuple[Tensor, ...]:
        return tuple(part[..., : index.shape[1], :] for part in rotary)

    monkeypatch.setattr(hooks, "gather_rotary", recounted)
    return dropping("sdpa", ONE)


def fillers_visible(monkeypatch: Patch) -> Red:
    """Rows of a batch that kept fewer tokens attend to what fills them up."""
    slots_after = hooks.slots_after

    def even(*args: Any) -> CacheSlots:
        slots = slots_after(*args)
        return CacheSlots(slots.index.where(slots.index >= 0, slots.end - 1), slots.end, slots.ragged)

    monkeypatch.setattr(hooks, "slots_after", even)
    return dropping("sdpa", RAGGED)


def masks_where_none_is_needed(monkeypatch: Patch) -> Red:
    """Equal rows are given a mask all the same, and lose the fast kernel."""
    remap_mask = hooks.remap_mask

    def always(mask: Tensor | None, slots: CacheSlots, *rest: Any) -> Tensor | None:
        return remap_mask(mask, CacheSlots(slots.index, slots.end, ragged=True), *rest)

    monkeypatch.setattr(hooks, "remap_mask", always)
    return Red(test_batches.test_equal_prompts_keep_the_mask_free_kernel, {}, by=r"== \[False")


def neighbours_scored(monkeypatch: Patch) -> Red:
    """The rows scored are those in front of the question's."""
    attention_logits = attention.attention_logits

    def one_too_early(query: Tensor, key: Tensor, rows: Tensor, *rest: Any) -> Tensor:
        return attention_logits(query, key, (rows - 1).clamp(min=0), *rest)

    monkeypatch.setattr(attention, "attention_logits", one_too_early)
    return Red(test_scores.test_scores_equal_eager_rows, {"attention": "sdpa"}, at_least=1e-4)


def states_left_where_they_are(monkeypatch: Patch) -> Red:
    """What the last layer leaves is handed on in a row, with zeros at the end."""

    def in_a_row(states: Tensor, index: Tensor, length: int) -> Tensor:
        return torch.nn.functional.pad(states, (0, 0, 0, length - states.shape[1]))

    monkeypatch.setattr(hooks, "scatter_rows", in_a_row)
    return Red(test_outputs.test_outputs_stand_at_their_positions, {"attention": "sdpa"}, by=None)


def states_touched_when_all_are_kept(monkeypatch: Patch) -> Red:
    """One unit in the last place is a bit too many."""
    before = Engine.before_layer

    def nudged(self: Engine, number: int, layer: Any, args: Any, kwargs: Any) -> Any:
        before(self, number, layer, args, kwargs)
        hidden = args[0] if args else kwargs.pop("hidden_states")
        return (hidden * (1 + 2**-23), *args[1:]), kwargs

    monkeypatch.setattr(Engine, "before_layer", nudged)
    return Red(
        test_keep_all.test_keep_all_is_bit_identical, {"attention": "sdpa", "prompts": EQUAL}, at_least=0
    )


def deepstack_misaddressed(monkeypatch: Patch) -> Red:
    """DeepStack's features are added to the tokens beside those they belong to."""
    add = DeepStack.add

    def beside(self: DeepStack, layer: int, states: Tensor, index: Tensor | None) -> Tensor:
        return add(self, layer, states, None if index is None else index.roll(1, 1))

    monkeypatch.setattr(DeepStack, "add", beside)
    return dropping("sdpa", ONE, family=Qwen3VL)


def rows_forgotten(monkeypatch: Patch) -> Red:
    """The cache's rows move, what it knows of them does not."""
    monkeypatch.setattr(cache, "map_slots", lambda held, change: held)
    return Red(test_caches.test_a_cache_whose_rows_move_remembers_them, {"change": "reorder"})


def hooks_left_installed(monkeypatch: Patch) -> Red:
    """Leaving takes nothing away."""
    monkeypatch.setattr(Engine, "remove", lambda self: None)
    return Red(test_contexts.test_leaving_restores_everything, {"fails": False}, by="Differing items")


MUTATIONS = [
    decode_mask_unmapped,
    keep_order_unsorted,
    gapped_position_ids,
    first_layer_pruned,
    rotary_positions_recounted,
    fillers_visible,
    masks_where_none_is_needed,
    neighbours_scored,
    states_left_where_they_are,
    states_touched_when_all_are_kept,
    deepstack_misaddressed,
    rows_forgotten,
    hooks_left_installed,
]


@pytest.mark.parametrize("mutation", MUTATIONS, ids=lambda mutation: mutation.__name__)
def test_the_suite_goes_red(
    mutation: Callable[[Patch], Red], monkeypatch: Patch, request: pytest.FixtureRequest
) -> None:
    mutation(monkeypatch).show(request)
