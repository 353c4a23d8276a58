"""The tables of world 2: what is asked, what goes on, what is written; a few questions, the first model."""

from __future__ import annotations

import json
import shutil
import sys
import time
from pathlib import Path
from typing import Any

import pytest

import proof
import proof_tables
import tune
from adatp import Session, tiny
from adatp.evaluation import Results
from adatp.evaluation.statistics import holm

TUNED = {
    "tuned": {"vcast": {"temperature": 2.0}, "adatp": {"tau_d": 0.5}},
    "methods": {
        "vcast": {
            "cells": {"a": 0.86, "b": 0.66},
            "accuracy": 0.8,
            "default_accuracy": 0.7,
            "settings": {"temperature": 2.0},
            "tried": {"vcast": 0.7},
        },
        "holitom": {
            "cells": {"a": 0.82},
            "accuracy": 0.6,
            "default_accuracy": 0.6,
            "settings": {},
            "tried": {"holitom": 0.6},
        },
        "adatp": {
            "cells": {"a": 0.9, "b": 0.7},
            "accuracy": 0.9,
            "default_accuracy": 0.9,
            "settings": {},
            "tried": {"adatp": 0.9},
        },
        "sharp": {"cells": {}, "accuracy": None, "default_accuracy": None, "settings": {}, "tried": {}},
    },
}


@pytest.fixture(scope="module")
def session() -> Session:
    return Session.of(*tiny.load())


def test_holm_by_hand() -> None:
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([0.5, 0.6]) == [1, 1]
    assert holm([]) == []


def test_who_is_asked() -> None:
    assert proof.best_peers(TUNED) == [
        "vcast",
        "holitom",
    ]  # ours is no peer, and what has no row does not compete
    assert proof.best_peers(TUNED, everywhere=True) == ["vcast"]  # holitom has no row at one target
    last = {
        name: {"cells": {"a": 0.1 * n, "b": 0}} for n, name in enumerate(("fastvid", "prunevid", "fastv"))
    }
    more = {**TUNED, "methods": {**TUNED["methods"], **last, "dycoke": {"cells": {"a": 1.0}}}}
    assert proof.best_peers(more) == ["dycoke", "vcast", "holitom"]
    assert proof.best_peers(more, everywhere=True) == ["vcast", "fastv", "prunevid"]
    asked = {each.label for part in proof.parts(1) if part.name == "best" for each in part.who(20, more)}
    assert asked >= {"dycoke", "vcast", "holitom", "fastv", "prunevid"}
    parts = {part.name: part for part in proof.parts(1)}
    assert parts["claim"].limit == 2000
    assert parts["best"].limit == 1000
    best = {each.key: each for each in parts["best"].who(20, TUNED)}
    assert {"vanilla", "adatp@0.05", "adatp-paper@0.5", "vcast@0.1", "holitom@0.273"} < set(best)
    assert best["vcast@0.1"].method.settings["temperature"] == 2  # tuned
    assert best["adatp@0.1"].method.settings["tau_d"] == 0.9  # as it ships
    assert len(parts["compare"].who(20, TUNED)) > 80
    assert {str(each.disturbance) for each in parts["disturbances"].who(20, TUNED)} == {
        "noise",
        "pan",
        "compression",
        "features:0.5",
    }
    worse = {each.key for each in parts["relevance"].who(20, TUNED)}
    assert {"adatp@0.1", "adatp@0.1 under relevance:4", "adatp-paper@0.1 under relevance:0.5"} < worse
    assert [part.limit for part in proof.parts(0.001)] == [12] * len(parts)
    assert len({each.label for each in parts["ablations-paper"].who(20, TUNED)}) > 20


def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every part at four frames and two questions, of one target."""
    full = proof.parts

    def parts(scale: float) -> list[proof.Part]:
        made = []
        for part in full(scale):

            def who(layers: int, tuned: Any, part: proof.Part = part) -> Any:
                names = ("full", "early off", "vanilla", "adatp", "vcast", "adatp-paper")
                found = [each for each in part.who(layers, tuned) if each.label in names]
                return [each for each in found if each.target in (None, 0.273, 0.1)]

            made.append(proof.Part(part.name, 2, (4, 5) if part.name == "best" else (4,), part.split, who))
        return made

    monkeypatch.setattr(proof, "parts", parts)
    monkeypatch.setattr(proof, "LOW", (0.273,))
    monkeypatch.setattr(proof, "TARGETS", (0.273,))
    monkeypatch.setattr(proof, "tuned_settings", lambda *_: TUNED)


def command(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> None:
    monkeypatch.setattr(sys, "argv", ["proof.py", "--model", "tiny", *arguments])
    proof.main()


def test_all_parts_go_on_and_fill_the_page(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    small(monkeypatch)
    page, figure, readme = tmp_path / "proof.md", tmp_path / "figure.png", tmp_path / "README.md"
    shutil.copy(proof_tables.PAGE, page)
    shutil.copy(proof_tables.README, readme)
    write = proof_tables.write
    monkeypatch.setattr(proof_tables, "write", lambda folder: write(folder, page, figure, readme))
    out = tmp_path / "results"
    command(monkeypatch, "--out", str(out), "--parts", "tables")
    assert page.read_text() == proof_tables.PAGE.read_text()  # the page is of its own folder alone
    monkeypatch.setattr(proof_tables, "RESULTS", out)
    with pytest.raises(SystemExit, match="stopped; run it again"):
        command(monkeypatch, "--out", str(out), "--minutes", "0")
    assert not list(out.glob("*.json"))
    command(monkeypatch, "--out", str(out), "--parts", "claim,best", "--batch", "2")
    text = page.read_text()
    assert "| vanilla, 4 frames | 2 |" in text
    assert "| vcast | 4 | +0.0" not in text.split("<!-- best -->")[0]
    assert "| AdaTP minus | frames |" in text
    assert text.count("*Not measured yet.*") == len(proof_tables.SECTIONS) - 3  # two parts, three sections
    assert figure.read_bytes()[:4] == b"\x89PNG"
    shown = readme.read_text().split("<!-- proof -->")[1].split("<!-- /proof -->")[0]
    assert shown.splitlines()[2] == "| method | 27.3 % |"
    assert "| vcast | " in shown
    before = (out / "best.work.jsonl").read_bytes()
    command(monkeypatch, "--out", str(out))
    assert (out / "best.work.jsonl").read_bytes() == before
    text = page.read_text()
    assert text.count("*Not measured yet.*") == 1  # the tuning's file is not there
    assert "| early off | 27.3 % |" in text
    assert "| adatp | 27.3 % |" in text
    assert "relevance:4" in text
    assert "| AdaTP minus | FLOPs | noise | pan | compression | features:0.5 |" in text
    assert "2 questions a cell." in text.split("<!-- shifted -->")[1]
    [auc] = [line for line in text.splitlines() if line.startswith("| AUC of relevance |")]
    assert all(0 <= float(cell) <= 1 for cell in auc.split("|")[3:-1])
    (out / "tune.json").write_text(json.dumps(TUNED))
    command(monkeypatch, "--out", str(out), "--parts", "tables")
    assert "| vcast | `temperature` = 2.0 | 70.0 | 80.0 | 1 |" in page.read_text()
    capsys.readouterr()
    monkeypatch.setattr(proof, "tuned_settings", None)  # an estimate tunes nothing
    command(monkeypatch, "--out", str(out), "--estimate")
    printed = capsys.readouterr().out
    assert "0 answers     0.0 hours" in printed
    assert "ms at 4" in printed


def test_a_part_that_there_is_not_is_refused(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(proof, "Session", lambda *_, **__: pytest.fail("a model is loaded"))
    with pytest.raises(SystemExit) as refused:
        command(monkeypatch, "--parts", "claim,bset")
    assert refused.value.code == 2
    assert "no part 'bset'; there are tune, claim, best" in capsys.readouterr().err


def test_against_adatp_is_paired(session: Session, tmp_path: Path) -> None:
    from adatp.evaluation import entrants

    who = entrants(["adatp", "vcast"], [0.3])
    with Results(tmp_path / "work") as results:
        for number in range(4):
            results.add_question(4, number, seed=number, kind="a", text="?", answer="yes", third=None)
            spent = {"flops_ratio": 0.3, "visual_mean": 1.0, "visual_last": 1}
            for key, words in (("adatp@0.3", "yes yes yes no"), ("vcast@0.3", "yes no no yes")):
                results.add_answer(key, 4, number, word=words.split()[number], **spent)
        [found] = proof_tables.against(results, who, [4])
    assert (found["other"], found["n"], found["delta"]) == ("vcast", 4, 0.25)
    assert found["p_value"] == 1


def test_a_difference_of_each_method_and_target_has_a_column_for_each_disturbance() -> None:
    def row(other: str, target: float, under: str, delta: float) -> dict[str, object]:
        interval = {"delta": delta, "delta_low": delta - 0.01, "delta_high": delta + 0.01}
        return {"other": other, "flops_target": target, "disturbance": under, **interval}

    rows = [row("vcast", 0.1, "noise", 0.02), row("vcast", 0.1, "pan", -0.03), row("sharp", 0.1, "pan", 0)]
    assert proof_tables.minus({"against_adatp": rows}, "disturbance").splitlines() == [
        "| AdaTP minus | FLOPs | noise | pan |",
        "| --- | --- | --- | --- |",
        "| vcast | 10 % | +2.0 [+1.0, +3.0] | -3.0 [-4.0, -2.0] |",
        "| sharp | 10 % | – | +0.0 [-1.0, +1.0] |",
    ]


def test_a_clock_stops_when_time_is_up(capsys: pytest.CaptureFixture[str]) -> None:
    noted = tune.clock(2, time.monotonic() + 60)
    noted(None)
    noted("adatp: too low")
    noted(None)
    assert "skipped: adatp: too low" in capsys.readouterr().err
    with pytest.raises(tune.TimeIsUp):
        tune.clock(2, time.monotonic() - 1)(None)
