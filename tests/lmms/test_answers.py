"""lmms-eval's answers on the embedded model are those of ``adatp eval``, question for question."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest
from harness import evaluate, said

from adatp.paper.offline import TASKS, write_tasks

FRAMES, DOCUMENTS = 8, 12
METHODS = ("vanilla", "adatp", "fastv", "visionzip")


@pytest.fixture(scope="module")
def tasks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("local") / "tasks"
    write_tasks(folder, FRAMES, DOCUMENTS)
    return folder


@pytest.fixture
def evaluated(tmp_path: Path, run: Callable[..., tuple[int, str, str]]) -> dict[str, list[tuple[str, float]]]:
    """What ``adatp eval`` notes of each method: words and real FLOPs by question."""
    out = tmp_path / "eval.json"
    options = ["--frames", FRAMES, "--limit", 2 * DOCUMENTS, "--flops", "0.273", "--json", out]
    code, _, err = run("eval", "--methods", ",".join(METHODS), *options)
    assert code == 0, err
    found: dict[str, list[tuple[str, float]]] = {}
    for line in (tmp_path / "eval.work.jsonl").read_text().splitlines():
        record = json.loads(line)
        if "run" in record:
            name = record["run"].split("@")[0]
            found.setdefault(name, []).append((record["word"], record["flops_ratio"]))
    return found


def test_question_for_question(tasks: Path, evaluated: dict[str, list[tuple[str, float]]]) -> None:
    for method in METHODS:
        arguments = {"pretrained": "embedded", "method": method, "frames": FRAMES}
        arguments |= {} if method == "vanilla" else {"flops": 0.273}
        results = evaluate("adatp", arguments, tasks, TASKS)
        answers = [answer for task in TASKS for answer in said(results, task)]
        words = [next(iter(re.findall(r"\w+", answer.lower())), "") for answer in answers]
        assert words == [word for word, _ in evaluated[method]], method
        ratios = [
            sample["token_counts"][0]["flops_ratio"]
            for task in TASKS
            for sample in sorted(results["samples"][task], key=lambda each: each["doc_id"])
        ]
        assert ratios == pytest.approx([ratio for _, ratio in evaluated[method]]), method


def test_a_batch_is_answered_as_its_documents_are(tasks: Path) -> None:
    arguments = {"pretrained": "embedded", "flops": 0.273, "frames": FRAMES}
    alone = evaluate("adatp", arguments, tasks, TASKS)
    together = evaluate("adatp", arguments, tasks, TASKS, batch_size=5)
    for task in TASKS:
        assert said(together, task) == said(alone, task)
