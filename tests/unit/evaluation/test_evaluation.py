"""Evaluation: what is asked, kept, resumed and made of it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from adatp import AdaTP, Session, tiny
from adatp.budget import BudgetError
from adatp.evaluation import (
    Entrant,
    Results,
    ResultsError,
    ablations,
    entrants,
    evaluate,
    names,
    summarise,
)
from adatp.evaluation.entrants import BASELINES, VANILLA
from adatp.evaluation.runner import TowerCache, fingerprint, view_of
from adatp.evaluation.statistics import bootstrap_interval, mcnemar_p
from adatp.evaluation.worlds import TINY
from adatp.methods import METHODS, VARIANTS
from adatp.tiny import world
from training.validation import prompt

FRAMES, LIMIT = 4, 4
PAIR = entrants(["adatp", "blind"], [0.5])


@pytest.fixture(scope="module")
def shipped() -> tuple[Any, Any]:
    return tiny.load()


def run(
    shipped: tuple[Any, Any],
    path: Path,
    who: Sequence[Entrant] = PAIR,
    frames: int = FRAMES,
    limit: int = LIMIT,
) -> tuple[list[Any], list[Any]]:
    with Results(path) as results:
        evaluate(Session.of(*shipped), who, [frames], "validation", limit, results)
        return summarise(results)


# --- statistics ---


def test_bootstrap_interval_is_that_of_resampling_one_by_one() -> None:
    values = np.random.default_rng(0).integers(-1, 2, 60)
    rng = np.random.default_rng(1)
    means = [values[rng.integers(0, 60, 60)].mean() for _ in range(10_000)]
    assert bootstrap_interval(values) == pytest.approx(np.quantile(means, [0.025, 0.975]), abs=0.02)


def test_bootstrap_interval_near_the_normal_one() -> None:
    right = [1] * 700 + [0] * 300
    half = 1.96 * (0.7 * 0.3 / 1000) ** 0.5
    assert bootstrap_interval(right) == pytest.approx((0.7 - half, 0.7 + half), abs=0.002)
    assert bootstrap_interval(right) == bootstrap_interval(right)
    assert bootstrap_interval([True] * 5) == (1, 1)


@settings(deadline=None, max_examples=50)
@given(st.lists(st.integers(-1, 1), min_size=1, max_size=50))
def test_bootstrap_interval_holds_the_mean(values: list[int]) -> None:
    low, high = bootstrap_interval(values)
    assert min(values) <= low <= np.mean(values) + 1e-9
    assert np.mean(values) - 1e-9 <= high <= max(values)


@pytest.mark.parametrize(
    ("first", "second", "p"),
    # scipy.stats.binomtest(first, first + second).pvalue
    [(0, 0, 1), (1, 0, 1), (5, 5, 1), (0, 6, 0.03125), (6, 16, 0.052478790283203125), (2, 11, 0.0224609375)],
)
def test_mcnemar_known_values(first: int, second: int, p: float) -> None:
    assert mcnemar_p(first, second) == pytest.approx(p)
    assert mcnemar_p(second, first) == mcnemar_p(first, second)


def test_mcnemar_of_many() -> None:
    assert mcnemar_p(1500, 1600) == pytest.approx(0.0755, abs=0.001)  # normal: z = 99 / 3100 ** 0.5


# --- entrants ---


def test_entrants_are_methods_at_targets_and_vanilla_always() -> None:
    assert [each.key for each in entrants(["adatp", "blind"], [0.5, 0.2, 0.5])] == [
        "vanilla",
        "adatp@0.5",
        "adatp@0.2",
        "blind",
    ]
    assert names() == [*METHODS, *VARIANTS, "blind", "single_frame"]
    keys = [each.key for each in entrants(names(), [0.5])]
    assert len(keys) == len(set(keys)) == len(names())
    with pytest.raises(KeyError):
        entrants(["nothing"], [0.5])


def test_ablations_change_one_thing_each() -> None:
    full, *others = ablations([0.3], 12)
    assert full.method == AdaTP(flops=0.3)
    assert full.key == "full@0.3" == others[0].reference
    for other in others:
        changed = {k: v for k, v in vars(other.method).items() if getattr(full.method, k) != v}
        assert len(changed) <= 1 + (other.label in ("neither", "2 first layers")), other.label
        assert changed, other.label  # what is so already is no variant
    assert len({each.key for each in [full, *others]}) == 1 + len(others)
    paper, *others = ablations([0.3], 12, paper=True)
    assert paper.method == AdaTP.paper(flops=0.3)
    assert next(each for each in others if each.label == "early on").method == AdaTP.paper(0.3, early="on")


def test_the_papers_method_is_asked_by_its_name() -> None:
    [_, own] = entrants(["adatp-paper"], [0.3])
    assert (own.key, own.method) == ("adatp-paper@0.3", AdaTP.paper(flops=0.3))


# --- asking ---


def test_answers_are_those_of_the_model_alone(shipped: tuple[Any, Any], tmp_path: Path) -> None:
    model, processor = shipped
    run(shipped, tmp_path / "work", entrants(["visionzip", "adatp", "single_frame"], [0.5]))
    with Results(tmp_path / "work") as results:
        answers = results.answers
    methods = {
        each.key: each for each in [*entrants(["visionzip", "adatp"], [0.5]), BASELINES["single_frame"]]
    }
    for number, (seed, question) in enumerate(world.benchmark("validation", FRAMES, LIMIT)):
        frames = world.make_clip(seed, FRAMES, "validation").frames
        for key, each in methods.items():
            shown = view_of(frames, each.view)
            inputs = processor(text=[prompt(processor, question.text)], videos=[shown])
            with torch.no_grad(), each.method(model, processor, question=question.text) as pruned:
                logits = model(**inputs).logits[0, -1]
            got = answers[key, FRAMES][number]
            assert got["word"] == processor.decode([int(logits.argmax())])
            visual = [layer[0] for layer in pruned.report.visual_tokens]
            assert got["flops_ratio"] == pruned.report.flops_ratio
            assert (got["visual_mean"], got["visual_last"]) == (sum(visual) / len(visual), visual[-1])


def test_the_tower_encodes_a_video_once_and_hooks_fire_each_time(shipped: tuple[Any, Any]) -> None:
    model, _ = shipped
    tower = model.model.vision_tower
    encoded, observed, watched = [], [], []
    handles = [
        tower.encoder.register_forward_hook(lambda *_: encoded.append(1)),
        tower.register_forward_hook(lambda _, args, output: observed.append(output)),
    ]
    attention = tower.encoder.layers[-1].self_attn
    handles.append(attention.register_forward_hook(lambda _, args, output: watched.append(output[0])))
    pixels = torch.rand(2, 3, 96, 96)
    with torch.no_grad(), TowerCache(tower, attention) as cache:
        for video, watch in (("a", False), ("a", False), ("a", True), ("b", True)):
            cache.show(video, watch)
            tower(pixels, output_hidden_states=True)
    for handle in handles:
        handle.remove()
    assert len(encoded) == 2
    assert len(observed) == 4
    assert all(output is not observed[0] for output in observed[1:])
    for output in observed[:3]:
        assert output.hidden_states[-1] is observed[0].hidden_states[-1]
    assert observed[3].hidden_states[-1] is not observed[0].hidden_states[-1]
    assert len(watched) == 3  # when it encodes, and once more for who watches
    assert torch.equal(watched[0], watched[1])
    assert "forward" not in vars(tower)


def test_as_many_other_frames_are_encoded(shipped: tuple[Any, Any]) -> None:
    tower = shipped[0].model.vision_tower
    pixels = torch.rand(3, 3, 96, 96)
    with torch.no_grad(), TowerCache(tower, None) as cache:
        for frames in ([0, 1], [0, 2]):  # what two thresholds of `reuse_frames` leave of a video
            cache.show("a", False)
            found = tower(pixels[frames]).last_hidden_state
    with torch.no_grad():
        assert torch.equal(found, tower(pixels[[0, 2]]).last_hidden_state)


def test_a_forward_that_the_tower_was_given_is_given_back() -> None:
    tower = torch.nn.Linear(2, 2)
    vars(tower)["forward"] = given = partial(tower.forward)  # as accelerate does
    with TowerCache(tower, None):
        assert tower.forward is not given
    assert tower.forward is given


def test_views() -> None:
    frames = world.make_clip(0, 5).frames
    assert view_of(frames, "video") is frames
    assert not view_of(frames, "blind").any()
    single = view_of(frames, "single_frame")
    assert single.shape == frames.shape
    assert all(np.array_equal(frame, frames[2]) for frame in single)


def test_third_of_the_evidence() -> None:
    found = set()
    for seed, question in world.benchmark("validation", 9, 32):
        clip = world.make_clip(seed, 9, "validation")
        shown = world.evidence(clip, question.about).reshape(3, 3).any(1)
        third = TINY.third_of(clip, question)
        assert third == (world.THIRDS[int(shown.argmax())] if shown.sum() == 1 else None)
        found.add(third)
    assert found == {None, *world.THIRDS}


def test_a_target_out_of_reach_is_skipped_not_invented(shipped: tuple[Any, Any], tmp_path: Path) -> None:
    method = AdaTP(flops=1e-4)
    with pytest.raises(BudgetError):
        run_alone(shipped, method)
    who = [VANILLA, Entrant("adatp", method)]
    noted = []
    with Results(tmp_path / "work") as results:
        evaluate(Session.of(*shipped), who, [FRAMES], "validation", LIMIT, results, noted.append)
        rows, skipped = summarise(results)
    assert [row["method"] for row in rows] == ["vanilla"]
    [skip] = skipped
    assert (skip["method"], skip["frames"], skip["flops_target"]) == ("adatp", FRAMES, 1e-4)
    assert "lowest" in skip["reason"]
    [said] = filter(None, noted)
    assert skip["reason"] in said


def run_alone(shipped: tuple[Any, Any], method: AdaTP) -> None:
    model, processor = shipped
    inputs = processor(text=[prompt(processor, "why ?")], videos=[world.make_clip(0, FRAMES).frames])
    with torch.no_grad(), method(model, processor, strict=True):
        model(**inputs)


# --- the work file ---


class Kill(BaseException):
    """Ends a run from within."""


def kill_after(n: int) -> Any:
    count = iter(range(n))

    def noted(_: str | None) -> None:
        if next(count, None) is None:
            raise Kill

    return noted


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def keys(path: Path) -> list[tuple[Any, ...]]:
    return [(line["run"], line["frames"], line["number"]) for line in lines(path) if "run" in line]


@pytest.mark.parametrize("cut", [0, 1, 20])
def test_a_killed_run_goes_on(shipped: tuple[Any, Any], tmp_path: Path, cut: int) -> None:
    straight = run(shipped, tmp_path / "straight")
    work = tmp_path / "work"
    for n in (1, 5):
        with pytest.raises(Kill), Results(work) as results:
            evaluate(Session.of(*shipped), PAIR, [FRAMES], "validation", LIMIT, results, kill_after(n))
        if cut:
            work.write_bytes(work.read_bytes()[:-cut])
    assert run(shipped, work) == straight
    assert sorted(keys(work)) == sorted(keys(tmp_path / "straight"))
    assert len(set(keys(work))) == len(keys(work)) == len(PAIR) * LIMIT


def test_nothing_is_asked_twice_and_entrants_can_be_added(
    shipped: tuple[Any, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    work = tmp_path / "work"
    first, _ = run(shipped, work)
    before = work.read_bytes()
    monkeypatch.setattr(type(shipped[0]), "forward", lambda *_, **__: pytest.fail("asked again"))
    assert run(shipped, work)[0] == first
    assert work.read_bytes() == before
    monkeypatch.undo()
    more, _ = run(shipped, work, entrants(["adatp"], [0.3]))
    assert more[: len(first)] == first
    assert [(row["method"], row["flops_target"]) for row in more[len(first) :]] == [("adatp", 0.3)]
    assert work.read_bytes().startswith(before)


def test_work_files_of_several_processes_can_be_joined(shipped: tuple[Any, Any], tmp_path: Path) -> None:
    rows = [run(shipped, tmp_path / str(frames), frames=frames)[0] for frames in (5, 4)]
    (tmp_path / "both").write_bytes((tmp_path / "5").read_bytes() + (tmp_path / "4").read_bytes())
    with Results(tmp_path / "both") as results:
        assert summarise(results) == (rows[1] + rows[0], [])


def test_an_unfinished_run_is_no_row(shipped: tuple[Any, Any], tmp_path: Path) -> None:
    with pytest.raises(Kill), Results(tmp_path / "work") as results:
        evaluate(Session.of(*shipped), PAIR, [FRAMES], "validation", LIMIT, results, kill_after(3))
    rows, skipped = summarise(results)
    assert rows == []
    assert "of 4 questions" in skipped[0]["reason"]


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda data: data.replace(b'"run": "vanilla"', b'"run": "van\x00\n', 1), "line"),
        (lambda data: b"garbage\n" + data, "line 1 "),
        (lambda data: data + b"[]\n", "line"),
        (lambda data: data + b"{}\n", "line"),
        (lambda data: data + b'{"pin": "split", "value": "test"}\n', "line"),
        (lambda data: data + b'{"pin": "limit", "value": "many"}\n', "line"),
        (lambda data: b"a letter to a friend", "line 1 "),
    ],
)
def test_a_damaged_file_is_refused_and_left_alone(
    shipped: tuple[Any, Any], tmp_path: Path, damage: Any, said: str
) -> None:
    work = tmp_path / "work"
    run(shipped, work, [VANILLA], limit=2)
    work.write_bytes(damage(work.read_bytes()))
    before = work.read_bytes()
    with pytest.raises(ResultsError, match=said) as refused:
        Results(work)
    assert "\n" not in str(refused.value)
    assert work.read_bytes() == before


def test_a_later_run_may_ask_more(shipped: tuple[Any, Any], tmp_path: Path) -> None:
    run(shipped, tmp_path / "grown", limit=2)
    run(shipped, tmp_path / "grown", limit=3)
    run(shipped, tmp_path / "once", limit=3)
    with Results(tmp_path / "grown") as grown, Results(tmp_path / "once") as once:
        assert grown.pins["limit"] == 3
        assert grown.answers == once.answers
        assert summarise(grown) == summarise(once)


def test_a_file_of_another_run_is_refused_and_left_alone(shipped: tuple[Any, Any], tmp_path: Path) -> None:
    model, processor = shipped
    work = tmp_path / "work"
    run(shipped, work, limit=2)
    before = work.read_bytes()

    def refused(match: str, who: Sequence[Entrant] = PAIR, split: str = "validation", limit: int = 2) -> None:
        with pytest.raises(ResultsError, match=match) as error, Results(work) as results:
            evaluate(Session.of(model, processor), who, [FRAMES], split, limit, results)
        assert "\n" not in str(error.value)
        assert work.read_bytes() == before

    refused("limit", limit=1)
    refused("split", split="test")
    refused("split", split="test", limit=3)
    changed = replace(PAIR[1], method=replace(PAIR[1].method, tau_s=0.5))  # type: ignore[type-var]
    refused("tau_s.*0.95.*tau_s.*0.5", [PAIR[0], changed])
    refused("tau_s", [*entrants(["random"], [0.5]), changed], limit=3)
    with torch.no_grad():
        model.lm_head.weight[0, 0] += 1
    refused("weights", limit=3)
    with torch.no_grad():
        model.lm_head.weight[0, 0] -= 1
    questions = list(world.benchmark("validation", FRAMES, 2))
    other = [(seed, replace(question, text="why ?")) for seed, question in questions]
    changed_world = replace(TINY, benchmark=lambda *_: iter(other))
    extra = entrants(["single_frame"], [])
    with pytest.raises(ResultsError, match="other questions"), Results(work) as results:
        evaluate(Session.of(model, processor), extra, [FRAMES], "validation", 2, results, world=changed_world)
    before = work.read_bytes()
    black = replace(
        TINY, make_clip=lambda *_: SimpleNamespace(frames=np.zeros((FRAMES, 96, 96, 3), np.uint8))
    )
    with pytest.raises(ResultsError, match="first clip"), Results(work) as results:
        evaluate(Session.of(model, processor), PAIR, [FRAMES], "validation", 3, results, world=black)
    assert work.read_bytes() == before


def test_one_process_at_a_time(tmp_path: Path) -> None:
    with Results(tmp_path / "work"), pytest.raises(ResultsError, match="another run"):
        Results(tmp_path / "work")
    with Results(tmp_path / "work"):
        pass


def test_fingerprint_tells_weights_apart(shipped: tuple[Any, Any]) -> None:
    model, _ = shipped
    before = fingerprint(model)
    weight = model.model.vision_tower.encoder.layers[0].mlp.fc1.weight
    with torch.no_grad():
        kept = weight.clone()
        weight.mul_(1.001)
        assert fingerprint(model) != before
        weight.copy_(kept)
    assert fingerprint(model) == before


# --- the table ---


def fill(path: Path, words: dict[str, list[str]], answers: list[str], thirds: list[str | None]) -> Results:
    results = Results(path)
    results.pin("limit", len(answers))
    results.pin("split", "test")
    for number, (answer, third) in enumerate(zip(answers, thirds, strict=True)):
        kind = "odd" if number % 2 else "even"
        results.add_question(8, number, seed=number, kind=kind, text="?", answer=answer, third=third)
    for each in [VANILLA, *entrants(["adatp"], [0.5])[1:]]:
        results.pin(f"run {each.key}", each.facts())
        for number, word in enumerate(words[each.key]):
            facts = {"flops_ratio": 0.25 + 0.5 * (number % 2), "visual_mean": 7.0, "visual_last": number}
            results.add_answer(each.key, 8, number, word=word, **facts)
    return results


def test_rows_by_hand(tmp_path: Path) -> None:
    words = {"vanilla": ["a", "a", "a", "b", "a", "a"], "adatp@0.5": ["a", "b", "c", "a", "b", "b"]}
    thirds = ["beginning", None, "end", "end", None, None]
    with fill(tmp_path / "work", words, ["a", "a", "b", "a", "a", "a"], thirds) as results:
        (vanilla, adatp), skipped = summarise(results)
    assert skipped == []
    assert (vanilla["accuracy"], vanilla["n"], vanilla["delta"]) == (4 / 6, 6, None)
    assert adatp["accuracy"] == 2 / 6
    assert (adatp["method"], adatp["frames"], adatp["flops_target"]) == ("adatp", 8, 0.5)
    assert (adatp["flops_ratio"], adatp["visual_mean"], adatp["visual_last"]) == (0.5, 7, 2.5)
    assert adatp["delta"] == pytest.approx(-2 / 6)
    assert adatp["delta_low"] < -2 / 6 < adatp["delta_high"]
    assert adatp["changed"] == pytest.approx(5 / 6)  # one of them from wrong to wrong
    assert adatp["p_value"] == pytest.approx(2 * (1 + 4) / 2**4)  # one gained, three lost
    by_type = {kind: (part["n"], part["accuracy"]) for kind, part in adatp["by_type"].items()}
    assert by_type == {"even": (3, 1 / 3), "odd": (3, 1 / 3)}
    by_third = {third: (part["n"], part["accuracy"]) for third, part in adatp["by_third"].items()}
    assert by_third == {"beginning": (1, 1), "end": (2, 0.5)}
    assert {"ci_low", "ci_high"} < adatp.keys() & adatp["by_type"]["odd"].keys()
