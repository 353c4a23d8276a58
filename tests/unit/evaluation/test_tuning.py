"""Parameters that are tuned on one split and used on another."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

import tune
from adatp import Session, tiny
from adatp.cli import main
from adatp.evaluation import SettingsError, best, candidates, check_settings, entrants, tunable
from adatp.methods import METHODS, FrameFusion


def test_every_value_worth_trying_is_one_that_the_method_takes() -> None:
    assert {"framefusion", "holitom", "flashvid", "vidcom2", "vcast", "sharp"} <= set(tunable())
    for name in tunable():
        for parameter, values in METHODS[name].tunable.items():
            assert len(values) > 1
            for value in values:
                METHODS[name](**{parameter: value})
        found = candidates(name, [0.3, 0.1])
        assert found[0].label == name
        assert found[0].method == METHODS[name](flops=0.3)  # type: ignore[call-arg]
        labels = [each.label for each in found if each.target == 0.1]
        assert len(labels) == len(set(labels)) == len(found) // 2
        assert all(each.reference == "vanilla" for each in found)


def row(label: str, target: float, accuracy: float, frames: int = 16) -> dict[str, Any]:
    variant = {} if label == "framefusion" else {"variant": label}
    return {
        **variant,
        "method": "framefusion",
        "frames": frames,
        "flops_target": target,
        "accuracy": accuracy,
    }


def test_what_is_right_most_often_wins_and_ties_keep_the_defaults() -> None:
    who = candidates("framefusion", [0.3])
    facts = {each.label: each.facts()["settings"] for each in who}
    low, high = "framefusion similarity=0.4", "framefusion similarity=0.8"
    rows = [row("framefusion", 0.3, 0.8), row("framefusion", 0.1, 0.6)]
    tie = [*rows, row(low, 0.3, 0.6), row(low, 0.1, 0.8)]
    found = best("framefusion", tie, facts)
    assert (found["settings"], found["accuracy"], found["default_accuracy"]) == ({}, 0.7, 0.7)
    found = best("framefusion", [*tie, row(high, 0.3, 0.8), row(high, 0.1, 0.7)], facts)
    assert found["settings"] == {"similarity": 0.8}
    assert found["tried"] == {"framefusion": 0.7, low: 0.7, high: 0.75}
    # One that could not reach every target does not compete.
    assert best("framefusion", [*rows, row(high, 0.3, 0.99)], facts)["settings"] == {}
    assert best("framefusion", [], facts)["tried"] == {}


def test_entrants_take_settings() -> None:
    settings = check_settings({"framefusion": {"similarity": 0.4}, "pyramiddrop": {"stages": [0.1, 0.5]}})
    _, fusion, dropped = entrants(["framefusion", "pyramiddrop"], [0.3], settings)
    assert fusion.method == FrameFusion(flops=0.3, similarity=0.4)
    assert dropped.method.settings["stages"] == (0.1, 0.5)
    assert fusion.key == "framefusion@0.3"


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ([], "an object"),
        ({"nothing": {}}, "no method 'nothing'"),
        ({"fastv": {"similarity": 1}}, "fastv has no parameter 'similarity'; it has layer"),
        ({"fastv": {"flops": 0.1}}, "no parameter 'flops'"),
        ({"framefusion": {"similarity": 3}}, "framefusion: similarity is a cosine"),
        ({"framefusion": {"similarity": "much"}}, "framefusion: "),
        ({"framefusion": 0.4}, "framefusion: its parameters are an object, not 0.4"),
    ],
)
def test_settings_that_make_no_sense(settings: Any, words: str) -> None:
    with pytest.raises(SettingsError, match=words) as error:
        check_settings(settings)
    assert "\n" not in str(error.value)


def test_tuning_goes_on_and_its_file_is_used(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    session = Session.of(*tiny.load())
    work = tmp_path / "tuned.work.jsonl"
    found = tune.tune(session, ["vcast"], [0.3], [4], 2, work)
    assert found["split"] == "validation"
    assert set(found["methods"]["vcast"]["tried"]) == {
        "vcast",
        "vcast temperature=0.2",
        "vcast temperature=2.0",
    }
    before = work.read_bytes()
    assert tune.tune(session, ["vcast"], [0.3], [4], 2, work) == found
    assert work.read_bytes() == before
    found["tuned"] = {"vcast": {"temperature": 2.0}}
    file = tmp_path / "tuned.json"
    file.write_text(json.dumps(found))
    command = ["eval", "--methods", "vcast", "--flops", "0.3", "--frames", "4", "--limit", "1"]
    out = tmp_path / "out.json"
    assert main([*command, "--settings", str(file), "--json", str(out)]) == 0
    lines = [json.loads(line) for line in (tmp_path / "out.work.jsonl").read_text().splitlines()]
    [pin] = [line["value"] for line in lines if line.get("pin") == "run vcast@0.3"]
    assert pin["settings"]["temperature"] == 2
    capsys.readouterr()
    for text, words in (("{", "no JSON"), ('{"fastv": {"x": 1}}', "fastv has no parameter 'x'")):
        file.write_text(text)
        assert main([*command, "--settings", str(file)]) == 2
        printed, err = capsys.readouterr()
        assert (printed, err.count("\n")) == ("", 1)
        assert words in err
    assert main([*command, "--settings", str(tmp_path / "nowhere.json")]) == 2
