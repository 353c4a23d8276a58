"""The worlds of an evaluation, the models that know them, and what disturbs them."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from adatp import AdaTP, Session, scenes, tiny
from adatp.cli import main
from adatp.evaluation import (
    WORLDS,
    Disturbance,
    Entrant,
    Results,
    ablations,
    disturbed,
    entrants,
    evaluate,
    lacks_words,
    summarise,
    world_of,
)
from adatp.evaluation.disturbing import WithPrefill, with_noisy_relevance
from adatp.plots import plot_accuracy, plot_thirds
from adatp.prefill import Prefill
from adatp.session import LoadError
from adatp.tiny import TinyProcessor
from training.scenes.model import build_model, build_tokenizer

FRAMES, LIMIT = 12, 2
SCENES = WORLDS["scenes"]


@pytest.fixture(scope="module")
def second() -> Session:
    """A second model that has learned nothing."""
    torch.manual_seed(0)
    processor = TinyProcessor(build_tokenizer())
    return Session.of(build_model(processor.tokenizer).eval(), processor)


@pytest.fixture(scope="module")
def folder(second: Session, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same as a checkpoint."""
    path = tmp_path_factory.mktemp("second")
    second.model.save_pretrained(path)
    second.processor.save_pretrained(path)
    return path


def test_a_model_is_asked_about_the_world_that_it_knows(second: Session) -> None:
    first = Session()
    assert world_of(first.processor).name == "tiny"
    assert world_of(second.processor) is SCENES
    assert world_of(object()).name == "tiny"  # of other models nothing is known
    assert "sea" in lacks_words(first.processor, SCENES)
    assert lacks_words(second.processor, SCENES) == []


def test_thirds_of_the_second_world() -> None:
    found = set()
    for seed, question in scenes.benchmark("validation", FRAMES, 24):
        clip = scenes.make_clip(seed, FRAMES, "validation")
        shown = scenes.evidence(clip, question).reshape(3, FRAMES // 3, -1).any((1, 2))
        third = SCENES.third_of(clip, question)
        assert (third is None) == (shown.sum() != 1)
        if third:
            assert shown[("beginning", "middle", "end").index(third)]
        found.add(third)
    assert len(found) == 4


def test_the_second_world_by_type_third_and_length(
    second: Session, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from adatp.cli.tables.evaluate import show_rows

    with Results(tmp_path / "work") as results:
        who = entrants(["adatp"], [0.3])
        evaluate(second, who, [12, 16], "shifted", LIMIT, results, world=SCENES)
        rows, skipped = summarise(results)
        assert results.pins["world"] == "scenes"
    assert skipped == []
    assert [(row["method"], row["frames"]) for row in rows] == [
        ("vanilla", 12),
        ("adatp", 12),
        ("vanilla", 16),
        ("adatp", 16),
    ]
    assert all(set(row["by_type"]) == {"colour", "shape"} for row in rows)
    show_rows(rows, LIMIT)
    out = capsys.readouterr().out
    assert "accuracy by the number of frames" in out
    assert "shifted split, 16 frames" in out


# --- disturbances ---


@pytest.mark.parametrize(
    ("text", "kind", "amount", "written"),
    [
        ("none", "none", 0, "none"),
        ("noise", "noise", 0, "noise"),
        ("features", "features", 0.5, "features:0.5"),
        ("relevance:2", "relevance", 2, "relevance:2"),
    ],
)
def test_disturbances_by_name(text: str, kind: str, amount: float, written: str) -> None:
    found = Disturbance.named(text)
    assert (found.kind, found.amount, str(found), bool(found)) == (kind, amount, written, text != "none")
    assert Disturbance.named(written) == found


@pytest.mark.parametrize(
    "text", ["", "fog", "noise:2", "features:", "features:0", "features:nan", "features:inf"]
)
def test_disturbances_that_there_are_not(text: str) -> None:
    with pytest.raises(ValueError, match="disturbance"):
        Disturbance.named(text)


def test_who_is_asked_under_what() -> None:
    who = entrants(["adatp", "fastv", "blind"], [0.3])
    made = disturbed(who, [Disturbance.named(name) for name in ("none", "noise", "relevance:2")])
    assert [(each.key, each.reference) for each in made] == [
        ("vanilla", "vanilla"),
        ("adatp@0.3", "vanilla"),
        ("fastv@0.3", "vanilla"),
        ("blind", "vanilla"),
        ("vanilla under noise", "vanilla under noise"),
        ("adatp@0.3 under noise", "vanilla under noise"),
        ("fastv@0.3 under noise", "vanilla under noise"),
        ("adatp@0.3 under relevance:2", "vanilla"),
    ]
    assert "disturbance" not in made[0].facts()
    assert made[4].facts()["disturbance"] == "noise"


def test_worse_relevance_alone_has_its_reference_and_only_those_that_read_it() -> None:
    worse = [Disturbance.named("relevance:2")]
    made = disturbed(entrants(["adatp", "fastv"], [0.3]), worse)
    assert [(each.key, each.reference) for each in made] == [
        ("vanilla", "vanilla"),
        ("adatp@0.3 under relevance:2", "vanilla"),
    ]
    keys = [each.key for each in disturbed(ablations([0.3], 12), worse)]
    assert keys[:2] == ["full@0.3", "full@0.3 under relevance:2"]
    assert "relevance embedding@0.3 under relevance:2" in keys
    assert not {f"relevance {signal}@0.3 under relevance:2" for signal in ("none", "attention")} & {*keys}


def test_pixels_are_disturbed_for_all_and_rows_say_so(second: Session, tmp_path: Path) -> None:
    who = disturbed(entrants(["adatp"], [0.3]), [Disturbance.named("none"), Disturbance.named("noise")])
    shown: list[Any] = []
    prepare = second.prepare
    second.prepare = lambda frames, *rest: (shown.append(frames), prepare(frames, *rest))[1]  # type: ignore
    try:
        with Results(tmp_path / "work") as results:
            evaluate(second, who, [FRAMES], "validation", 1, results, world=SCENES)
            rows, _ = summarise(results)
    finally:
        del second.prepare  # type: ignore[method-assign]
    [(seed, _)] = scenes.benchmark("validation", FRAMES, 1)
    frames = scenes.make_clip(seed, FRAMES, "validation").frames
    assert len(shown) == 2  # each once for both entrants
    assert np.array_equal(shown[0], frames)
    assert np.array_equal(shown[1], scenes.disturb(frames, "noise", seed))
    assert [row.get("disturbance") for row in rows] == [None, None, "noise", "noise"]
    assert [row["delta"] is None for row in rows] == [True, False, True, False]
    assert len(plot_accuracy(rows).axes) == 2
    assert plot_thirds(rows).axes


def read_by_decoder(session: Session, disturbance: Disturbance, method: Any, seed: int = 3) -> Any:
    """The visual embeddings that a method plans with."""
    found: list[torch.Tensor] = []

    class Spy(AdaTP):
        def rule(self, prefill: Prefill, sample: int, schedule: Any) -> Any:
            rule = super().rule(prefill, sample, schedule)
            return lambda cut: (found.append(cut.states), rule(cut))[1]

    prompt = session.prepare(scenes.make_clip(5, FRAMES, "validation").frames, "where is the star ?")
    with disturbance.tokens(session.model, [seed]):
        session.answer(prompt, Spy(flops=0.1), max_new_tokens=1)
    return found[0]


def test_feature_noise_is_in_what_the_method_reads(second: Session) -> None:
    plain = read_by_decoder(second, Disturbance(), None)
    noisy = read_by_decoder(second, Disturbance.named("features:0.5"), None)
    again = read_by_decoder(second, Disturbance.named("features:0.5"), None)
    other = read_by_decoder(second, Disturbance.named("features:0.5"), None, seed=4)
    assert torch.equal(noisy, again)
    assert not torch.equal(noisy, other)
    ratio = (noisy - plain).square().mean().sqrt() / plain.square().mean().sqrt()
    assert ratio == pytest.approx(0.5, rel=0.05)
    assert torch.equal(read_by_decoder(second, Disturbance(), None), plain)  # nothing stays installed


def test_relevance_noise_changes_relevance_alone(second: Session) -> None:
    prompt = second.prepare(scenes.make_clip(5, FRAMES, "validation").frames, "where is the star ?")
    method = AdaTP(flops=0.2, relevance="embedding", tau_s=1.0)

    def relevance(method: Any) -> Any:
        return np.array(second.answer(prompt, method, max_new_tokens=1).report.notes[0]["frame_relevance"])

    plain = relevance(method)
    worse = relevance(Disturbance.named("relevance:2").method(method, [7]))
    assert np.std(worse - plain) == pytest.approx(2 * np.std(plain), rel=0.6)
    assert np.array_equal(worse, relevance(Disturbance.named("relevance:2").method(method, [7])))
    assert not np.array_equal(worse, relevance(Disturbance.named("relevance:2").method(method, [8])))
    assert Disturbance.named("noise").method(method, [7]) is method
    without = WithPrefill(AdaTP(flops=0.2, relevance="none"), with_noisy_relevance(1, [0]))
    notes = second.answer(prompt, without, max_new_tokens=1).report.notes[0]  # type: ignore[arg-type]
    assert notes["frame_relevance"] is None


def test_a_batch_is_answered_as_each_is_alone(tmp_path: Path) -> None:
    """Also under disturbances, which follow from each clip, and where a run goes on amid a batch."""
    session = Session.of(*tiny.load())
    who = disturbed(
        entrants(["adatp", "holitom", "single_frame"], [0.5]),
        [Disturbance.named(name) for name in ("none", "noise", "features", "relevance")],
    )
    found = {}
    for batch in (1, 3):
        with Results(tmp_path / str(batch)) as results:
            if batch == 3:
                evaluate(session, who[:2], [6], "validation", 5, results)
            evaluate(session, who, [6], "validation", 5, results, batch=batch)
            found[batch] = results.answers, summarise(results)[0]
    (alone, rows), (together, others) = found[1], found[3]
    assert alone.keys() == together.keys()
    assert len(alone) == len(who)
    for key, answers in alone.items():
        for number, answer in answers.items():
            mine = together[key][number]
            for name in ("word", "visual_mean", "visual_last"):
                assert mine[name] == answer[name], key
    for row, other in zip(rows, others, strict=True):
        assert row["accuracy"] == other["accuracy"]
        assert row["flops_ratio"] == pytest.approx(other["flops_ratio"], abs=2e-3)


def test_noise_follows_its_clip_where_a_batch_has_to_be_divided(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    session = Session.of(*tiny.load())
    names = [Disturbance.named(name) for name in ("features:3", "relevance:4")]
    who = disturbed(entrants(["adatp"], [0.3]), names)
    found = []
    for batch in (1, 3):
        with Results(tmp_path / str(batch)) as results:
            evaluate(session, who, [6], "validation", 3, results, batch=batch)
            found.append({key: {**answers} for key, answers in results.answers.items()})
        for user in ("session.session", "evaluation.runner"):  # as if no two clips fitted into one batch
            divided = lambda prompts: [[number] for number in range(len(prompts))]  # noqa: E731
            monkeypatch.setattr(f"adatp.{user}.batches", divided, raising=False)
    assert found[0] == found[1]


# --- the command ---


def run(*arguments: Any) -> int:
    return main([str(argument) for argument in arguments])


EVAL = ("eval", "--frames", FRAMES, "--limit", 1, "--methods", "vanilla")


def test_eval_takes_a_folder_and_finds_its_world(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.json"
    disturb = ("--disturb", "none, pan ,features:0.2")
    assert run(*EVAL, "--model", folder, "--split", "validation", *disturb, "--json", out) == 0
    got = json.loads(out.read_text())
    assert (got["world"], got["model"]) == ("scenes", str(folder))
    assert [row.get("disturbance") for row in got["rows"]] == [None, "pan", "features:0.2"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--world", "moon"), "no world 'moon'; there are tiny, scenes"),
        (("--world", "scenes", "--model", "tiny"), "does not know the world 'scenes'"),
        (("--disturb", "fog"), "no disturbance 'fog'; there are none, noise"),
        (("--disturb", "noise:3"), "takes no amount"),
    ],
)
def test_eval_refuses_in_one_line(
    arguments: tuple[str, ...], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(*EVAL, *arguments) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert words in err
    assert err.count("\n") == 1


def test_a_model_that_ships_is_found_by_name(
    folder: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(tiny.EMBEDDED, "scenes", tmp_path / "nothing")
    with pytest.raises(LoadError, match="does not ship"):
        Session("scenes")
    monkeypatch.setitem(tiny.EMBEDDED, "scenes", folder)
    assert Session("scenes").source == str(folder)
    assert not Session("scenes").embedded
    assert Session("tiny").embedded
    out = tmp_path / "out.json"
    assert run(*EVAL, "--world", "scenes", "--json", out) == 0
    assert json.loads(out.read_text())["world"] == "scenes"
    (tmp_path / "scenes").mkdir()  # a folder of that name wins
    with pytest.raises(LoadError, match="no model in this folder"):
        Session("scenes")


def test_an_entrant_of_ones_own_can_be_disturbed() -> None:
    own = Entrant("sharper", AdaTP(flops=0.3, tau_r=0.5), reference="adatp@0.3")
    [made] = disturbed([own], [Disturbance.named("dim")])
    assert made == replace(own, reference="adatp@0.3 under dim", disturbance=Disturbance("dim"))
