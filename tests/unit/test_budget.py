import math
import re
from collections.abc import Callable
from dataclasses import replace
from fractions import Fraction
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from adatp import budget
from adatp.budget import BudgetError, Schedule, default_range, fit, nearest_cut
from adatp.flops import DecoderShape, DeltaNet, prefill_flops
from adatp.layout import PromptCounts

unhurried = settings(deadline=None)

QWEN2_7B = DecoderShape(28, 3584, 28, 4, 128, 18944, 152064)
QWEN2_05B = DecoderShape(24, 896, 14, 2, 64, 4864, 151936)
TINY = DecoderShape(12, 192, 6, 2, 32, 512, 256)
LINEAR = DeltaNet(tuple(layer for layer in range(32) if layer % 4 != 3), 16, 32, 128, 128, 4)
QWEN35_9B = DecoderShape(32, 4096, 16, 4, 256, 12288, 248320, mixer=LINEAR)

shapes = st.sampled_from([QWEN2_7B, QWEN2_05B, TINY, QWEN35_9B])
fractions = st.floats(0, 1)


def solve(shape: DecoderShape, *, visual: int, other: int, **rest: Any) -> Schedule:
    return budget.solve(shape, PromptCounts(visual, other), **rest)


def solve_early(shape: DecoderShape, *, visual: int, other: int, **rest: Any) -> Schedule:
    return budget.solve_early(shape, PromptCounts(visual, other), **rest)


@st.composite
def ranges(draw: st.DrawFn, shape: DecoderShape) -> tuple[int, int]:
    cut = draw(st.sampled_from(shape.cut_layers))
    return draw(st.integers(1, cut)), draw(st.integers(cut, shape.layers - 1))


@st.composite
def prompts(draw: st.DrawFn, least: int, most: int) -> tuple[DecoderShape, dict[str, int]]:
    shape = draw(shapes)
    start, end = draw(ranges(shape))
    visual, other = draw(st.integers(least, most)), draw(st.integers(0, 60))
    return shape, {
        "visual": visual,
        "other": other,
        "start": start,
        "end": end,
        "queries": draw(st.integers(1, 64)),
    }


def reachable(shape: DecoderShape, prompt: dict[str, int], fraction: float) -> float:
    """The target so far between the lowest and all."""
    lowest = lowest_ratio(solve, shape, prompt)
    return lowest + fraction * (1 - lowest)


def lowest_ratio(solver: Callable[..., Schedule], shape: DecoderShape, prompt: dict[str, Any]) -> float:
    with pytest.raises(BudgetError, match="the lowest is") as error:
        solver(shape, target=1e-9, **prompt)
    assert error.value.lowest is not None
    return error.value.lowest


def cost(shape: DecoderShape, visual: tuple[int, ...], prompt: dict[str, int]) -> int:
    drops = [layer for layer in range(1, shape.layers) if visual[layer] < visual[layer - 1]]
    assert {*drops} <= {*shape.cut_layers}
    return prefill_flops(
        shape, [n + prompt["other"] for n in visual], {layer - 1: prompt["queries"] for layer in drops}
    )


@unhurried
@given(prompts(1, 7000), fractions)
def test_a_schedule_is_what_it_says(case: tuple[DecoderShape, dict[str, int]], fraction: float) -> None:
    shape, prompt = case
    target = reachable(shape, prompt, fraction)
    schedule = solve(shape, target=target, **prompt)
    visual, n, start, end = schedule.visual, prompt["visual"], prompt["start"], prompt["end"]
    assert len(visual) == shape.layers
    assert visual[:start] == (n,) * start
    assert set(visual[end:]) == {visual[end]}
    assert list(visual) == sorted(visual, reverse=True)
    assert min(visual) >= 1
    assert schedule.flops == cost(shape, visual, prompt)
    assert schedule.vanilla_flops == cost(shape, (n,) * shape.layers, prompt)
    assert schedule.ratio <= target
    assert solve(shape, target=target, **prompt) == schedule


@unhurried
@given(prompts(1500, 7000), fractions)
def test_realistic_prompts_come_within_one_percent(
    case: tuple[DecoderShape, dict[str, int]], fraction: float
) -> None:
    shape, prompt = case
    target = reachable(shape, prompt, fraction)
    assert solve(shape, target=target, **prompt).ratio >= 0.99 * target


@unhurried
@given(prompts(1, 7000), fractions, fractions)
def test_a_higher_target_keeps_no_token_less(
    case: tuple[DecoderShape, dict[str, int]], one: float, other: float
) -> None:
    shape, prompt = case
    less, more = (
        solve(shape, target=reachable(shape, prompt, fraction), **prompt) for fraction in sorted((one, other))
    )
    assert all(a <= b for a, b in zip(less.visual, more.visual, strict=True))
    assert less.flops <= more.flops


@unhurried
@given(prompts(1, 12), fractions)
def test_few_tokens_get_the_best_geometric_schedule(
    case: tuple[DecoderShape, dict[str, int]], fraction: float
) -> None:
    shape, prompt = case
    target = reachable(shape, prompt, fraction)
    schedule = solve(shape, target=target, **prompt)
    n = prompt["visual"]
    at = [layer for layer in shape.cut_layers if prompt["start"] <= layer <= prompt["end"]]
    cuts = len(at)
    # As the decay rises from 0 to 1, floor(n decay^k) reaches m at (m / n)^(1 / k).
    events = [(round((m / n) ** (1 / k), 12), k) for m in range(2, n + 1) for k in range(1, cuts + 1)]
    counts, best = [1] * cuts, 0
    for step in [None, *sorted(events)]:
        if step is not None:
            counts[step[1] - 1] += 1
        visual = tuple((n, *counts)[sum(cut <= layer for cut in at)] for layer in range(shape.layers))
        flops = cost(shape, visual, prompt)
        if flops <= Fraction(target) * schedule.vanilla_flops:
            best = flops
    assert schedule.flops == best


def test_the_papers_setting() -> None:
    start, end = default_range(28)
    schedule = solve(QWEN2_7B, visual=6272, other=30, target=0.273, start=start, end=end, queries=32)
    assert 0.2729 < schedule.ratio <= 0.273
    assert schedule.visual[2] < 6272
    assert schedule.visual[16] / 6272 == pytest.approx(0.09, abs=0.005)
    decay = [b / a for a, b in zip(schedule.visual[1:16], schedule.visual[2:17], strict=True)]
    assert max(decay) - min(decay) < 0.002


def test_default_range() -> None:
    assert default_range(28) == (2, 16)
    assert default_range(24) == (2, 14)
    assert default_range(12) == (1, 7)
    for layers in range(2, 100):
        start, end = default_range(layers)
        assert 1 <= start <= end < layers


def test_all_of_vanilla_keeps_everything_and_scores_nothing() -> None:
    schedule = solve(TINY, visual=100, other=10, target=1, start=1, end=7, queries=32)
    assert schedule.visual == (100,) * 12
    assert schedule.flops == schedule.vanilla_flops == prefill_flops(TINY, [110] * 12)
    assert schedule.ratio == 1


@unhurried
@given(prompts(1, 7000))
@example((TINY, {"visual": 11, "other": 15, "start": 1, "end": 1, "queries": 11}))  # exactly 0.6425
def test_an_unreachable_target_names_one_that_is_reachable(case: tuple[DecoderShape, dict[str, int]]) -> None:
    shape, prompt = case
    with pytest.raises(BudgetError, match="the lowest is") as error:
        solve(shape, target=1e-4, **prompt)
    assert "\n" not in str(error.value)
    found = re.search(r"the lowest is ([\d.]+)", str(error.value))
    assert found
    lowest = float(found[1])
    assert solve(shape, target=lowest, **prompt).ratio <= lowest
    with pytest.raises(BudgetError):
        solve(shape, target=lowest - 2e-4, **prompt)


def test_no_visual_tokens_can_only_cost_all() -> None:
    prompt = {"visual": 0, "other": 10, "start": 1, "end": 7, "queries": 8}
    assert solve(TINY, target=1, **prompt).visual == (0,) * 12
    with pytest.raises(BudgetError, match="the lowest is 1 "):
        solve(TINY, target=0.9, **prompt)


@pytest.mark.parametrize("target", [math.nan, 0, -0.1, 1.01, math.inf, -math.inf])
def test_targets_that_make_no_sense(target: float) -> None:
    with pytest.raises(BudgetError, match="fraction of vanilla"):
        solve(TINY, visual=10, other=1, target=target, start=1, end=7, queries=8)


@pytest.mark.parametrize(("start", "end"), [(0, 7), (-1, 7), (5, 4), (1, 12)])
def test_ranges_that_make_no_sense(start: int, end: int) -> None:
    with pytest.raises(BudgetError, match="start"):
        solve(TINY, visual=10, other=1, target=0.5, start=start, end=end, queries=8)


@pytest.mark.parametrize(("visual", "other", "queries"), [(-1, 5, 8), (5, -1, 8), (0, 0, 8), (5, 5, -1)])
def test_counts_that_make_no_sense(visual: int, other: int, queries: int) -> None:
    with pytest.raises(BudgetError, match="token counts"):
        solve(TINY, visual=visual, other=other, target=0.5, start=1, end=7, queries=queries)


def test_cuts_follow_full_attention() -> None:
    prompt = {"visual": 1000, "other": 30, "target": 0.4, "queries": 8}
    visual = solve(QWEN35_9B, start=2, end=18, **prompt).visual
    assert [layer for layer in range(1, 32) if visual[layer] < visual[layer - 1]] == [4, 8, 12, 16]
    with pytest.raises(BudgetError, match=r"none of layers 5 to 7 follows full attention.*4, 8, 12, 16, 20"):
        solve(QWEN35_9B, start=5, end=7, **prompt)
    assert [nearest_cut(QWEN35_9B, layer) for layer in (0, 2, 4, 6, 7, 31)] == [4, 4, 4, 4, 8, 28]
    assert [nearest_cut(TINY, layer) for layer in (0, 1, 7, 12)] == [1, 1, 7, 11]
    shallow = replace(QWEN35_9B, layers=4, mixer=replace(LINEAR, layers=(0, 1, 2)))
    with pytest.raises(BudgetError, match=r"none of layers 1 to 2 follows full attention.*: none"):
        solve(shallow, start=1, end=2, **prompt)
    with pytest.raises(BudgetError, match="none of the decoder's layers"):
        nearest_cut(shallow, 1)


# --- the early stage --------------------------------------------------------------------------------------


@unhurried
@given(prompts(1, 7000), fractions, st.floats(0.01, 1))
def test_an_early_schedule_is_what_it_says(
    case: tuple[DecoderShape, dict[str, int]], fraction: float, survive: float
) -> None:
    shape, prompt = case
    lowest = lowest_ratio(solve_early, shape, {**prompt, "survive": survive})
    target = lowest + fraction * (1 - lowest)
    schedule = solve_early(shape, target=target, **prompt, survive=survive)
    visual = schedule.visual
    assert len(visual) == shape.layers
    assert visual[0] <= prompt["visual"]
    assert len(set(visual[: prompt["start"]])) == 1
    assert list(visual) == sorted(visual, reverse=True)
    assert min(visual) >= 1
    assert schedule.flops == cost(shape, visual, prompt)
    assert schedule.ratio <= target


@unhurried
@given(prompts(1500, 7000), fractions)
def test_early_schedules_come_within_one_percent(
    case: tuple[DecoderShape, dict[str, int]], fraction: float
) -> None:
    shape, prompt = case
    target = 0.1 + fraction * 0.9  # of fewer tokens, a single one is more than one percent
    assert solve_early(shape, target=target, **prompt, survive=0.5).ratio >= 0.99 * target


@unhurried
@given(prompts(1, 7000))
def test_the_early_stage_reaches_lower(case: tuple[DecoderShape, dict[str, int]]) -> None:
    """Down to one visual token in every layer."""
    shape, prompt = case
    lowest = lowest_ratio(solve_early, shape, {**prompt, "survive": 0.5})
    assert lowest <= lowest_ratio(solve, shape, prompt)
    one = prefill_flops(shape, [1 + prompt["other"]] * shape.layers)
    complete = prefill_flops(shape, [prompt["visual"] + prompt["other"]] * shape.layers)
    assert lowest - 1e-4 < one / complete <= lowest
    assert solve_early(shape, target=lowest, **prompt, survive=0.5).ratio <= lowest
    with pytest.raises(BudgetError):
        solve_early(shape, target=lowest - 2e-4, **prompt, survive=0.5)


def test_about_the_share_that_is_to_survive_survives() -> None:
    for survive in (0.1, 0.5, 1.0):
        visual = solve_early(
            QWEN2_7B, visual=6272, other=30, target=0.1, start=2, end=16, queries=32, survive=survive
        ).visual
        assert visual[-1] / visual[0] == pytest.approx(survive, rel=0.05)
    assert solve_early(
        QWEN2_7B, visual=6272, other=30, target=0.9, start=2, end=16, queries=32, survive=0.5
    ) == solve(QWEN2_7B, visual=6272, other=30, target=0.9, start=2, end=16, queries=32)


# --- schedules of other methods ---------------------------------------------------------------------------


@unhurried
@given(shapes, st.integers(1, 60), st.integers(0, 40), st.floats(0.001, 1), st.integers(0, 5), st.data())
def test_fit_finds_the_last_schedule_within_the_target(
    shape: DecoderShape, visual: int, other: int, target: float, queries: int, data: st.DataObject
) -> None:
    cut = data.draw(st.integers(0, shape.layers - 1))
    scored = {cut - 1} - {-1}

    def counts(x: int) -> list[int]:
        return [visual] * cut + [x] * (shape.layers - cut)

    vanilla = prefill_flops(shape, [visual + other] * shape.layers)
    costs = [
        prefill_flops(shape, [n + other for n in counts(x)], dict.fromkeys(scored, queries))
        for x in range(1, visual + 1)
    ]
    within = [x for x, flops in enumerate(costs, 1) if flops <= Fraction(target) * vanilla]

    def found() -> Schedule:
        return fit(
            shape,
            PromptCounts(visual, other),
            target=target,
            layer_counts=counts,
            most=visual,
            queries=queries,
            scored=scored,
        )

    if target == 1:
        assert found().visual == (visual,) * shape.layers
    elif within:
        schedule = found()
        assert schedule.visual == tuple(counts(within[-1]))
        assert schedule.flops == costs[within[-1] - 1]
        assert schedule.vanilla_flops == vanilla
    else:
        with pytest.raises(BudgetError, match="the lowest is") as error:
            found()
        assert error.value.lowest == pytest.approx(min(1, costs[0] / vanilla), abs=1.01e-4)
        assert error.value.lowest >= min(1, costs[0] / vanilla)


@pytest.mark.parametrize("target", [math.nan, 0, -0.1, 1.01])
def test_fit_refuses_targets_that_make_no_sense(target: float) -> None:
    with pytest.raises(BudgetError, match="fraction of vanilla"):
        fit(TINY, PromptCounts(10, 1), target=target, layer_counts=lambda x: [x] * 12, most=10)
