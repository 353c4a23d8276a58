"""A checkpoint that no family file knows, through every command: it works, and says "general rule"."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from adatp.models import registry
from own_code import save_checkpoint
from run_rows import answers
from running import Run

SAYS = "general rule: no family file knows 'own_video_llm'"


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_checkpoint(tmp_path_factory.mktemp("own") / "checkpoint")


@pytest.fixture
def video(tmp_path: Path) -> Path:
    """Eight frames of 32 x 32."""
    folder = tmp_path / "clip"
    folder.mkdir()
    pixels = np.random.default_rng(0).integers(0, 255, (8, 32, 32, 3), dtype=np.uint8)
    for number, frame in enumerate(pixels):
        Image.fromarray(frame).save(folder / f"{number}.png")
    return folder


@pytest.fixture(autouse=True)
def nothing_allowed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "_by_rule", set())


def test_ask(run: Run, checkpoint: Path, video: Path) -> None:
    options = ("--trust-remote-code", "--frames", "8", "--max-new-tokens", "2", "--flops", "0.6")
    code, out, err = run("ask", video, "what is the red ball ?", "--model", checkpoint, *options)
    assert code == 0, err
    assert SAYS in err
    assert "64 →" in out


def test_eval(run: Run, checkpoint: Path, tmp_path: Path) -> None:
    """Methods that read the attention in the tower, which nobody knows, are skipped with the reason."""
    file = tmp_path / "eval.json"
    options = ("--trust-remote-code", "--frames", "8", "--limit", "2", "--flops", "0.8", "--json", file)
    code, _, err = run("eval", "--model", checkpoint, "--methods", "adatp,visionzip", *options)
    assert code == 0, err
    assert SAYS in err
    assert "skipped: visionzip" in err
    assert "needs a family file" in err
    assert {row["method"] for row in json.loads(file.read_text())["rows"]} == {"vanilla", "adatp"}


def test_run(run: Run, checkpoint: Path, video: Path, tmp_path: Path) -> None:
    """Equal questions about one video in one batch: nothing of one row is taken for another's."""
    rows = tmp_path / "rows.jsonl"
    asked = ["what is the red ball ?", "what is the red ball ?", "is the red ball red ?"]
    rows.write_text("".join(json.dumps({"video": str(video), "question": each}) + "\n" for each in asked))
    options = ("--trust-remote-code", "--frames", "8", "--max-new-tokens", "3", "--workers", "0")
    found = []
    for batch in (1, 3):
        where = ("--model", checkpoint, "--out", tmp_path / str(batch), "--batch", batch)
        code, _, err = run("run", rows, *where, *options)
        assert code == 0, err
        assert SAYS in err
        found.append([each["answer"] for each in answers(tmp_path / str(batch))])
    assert len(found[0]) == 3
    assert found[0] == found[1]


def test_show(run: Run, checkpoint: Path, video: Path, tmp_path: Path) -> None:
    options = ("--trust-remote-code", "--frames", "8", "--max-new-tokens", "2", "--flops", "0.6")
    where = ("--model", checkpoint, "--out", tmp_path / "show")
    code, _, err = run("show", video, "what is the red ball ?", *where, *options)
    assert code == 0, err
    assert SAYS in err
    assert (tmp_path / "show" / "show.html").exists()


def test_bias(run: Run, checkpoint: Path) -> None:
    options = ("--trust-remote-code", "--frames", "8", "--limit", "2")
    code, _, err = run("bias", "--model", checkpoint, *options)
    assert code == 0, err
    assert SAYS in err


def test_flops(run: Run, checkpoint: Path) -> None:
    """Nothing in the config says how many tokens a frame has: one line, which says who knows."""
    code, out, err = run("flops", "--model", checkpoint, "--trust-remote-code")
    assert (code, out) == (2, "")
    assert SAYS in err
    assert "learns how many tokens a frame has from a prompt alone: `adatp ask`" in err
