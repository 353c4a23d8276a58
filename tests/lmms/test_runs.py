"""Complete runs: what fails, what is written, several processes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from checkpoints import Checkpoints
from harness import Question, evaluate, noted, said, write_clip, write_task
from loguru import logger

from adatp import AdaTP
from adatp.errors import AdaTPError, RefusedError
from adatp.integrations.lmms_models.arguments import read_arguments
from adatp.paper.offline import TASKS, write_tasks

QUESTION = "what is the red ball ?"


def test_an_unreadable_video_costs_one_document(checkpoints: Checkpoints, tmp_path: Path) -> None:
    good = write_clip(tmp_path / "good.mp4", 8)
    (tmp_path / "bad.mp4").write_bytes(b"no video")
    videos = [good, str(tmp_path / "bad.mp4"), str(tmp_path / "missing.mp4"), good]
    tasks = write_task(tmp_path / "tasks", [Question(QUESTION, [video]) for video in videos])
    for family, simple in (("llava_onevision", False), ("llava_onevision", True), ("smolvlm", False)):
        lines: list[str] = []
        sink = logger.add(lines.append, level="ERROR")
        arguments = {"pretrained": checkpoints / family, "frames": 8}
        results = evaluate("adatp", arguments, tasks, force_simple=simple, batch_size=4)
        logger.remove(sink)
        answers = said(results)
        assert answers[0] == answers[3] != ""
        assert answers[1:3] == ["", ""]
        log = "".join(lines)
        assert "asked, document 1" in log
        assert "bad.mp4" in log
        assert "missing.mp4" in log
        assert "good.mp4" not in log


def test_no_answer_at_all_is_an_error(checkpoints: Checkpoints, tmp_path: Path) -> None:
    tasks = write_task(tmp_path / "tasks", [Question(QUESTION, [str(tmp_path / "missing.mp4")])])
    with pytest.raises(RuntimeError, match=r"none of 1 documents has an answer.*missing\.mp4"):
        evaluate("adatp", {"pretrained": checkpoints / "llava_onevision"}, tasks)


def test_images_alone_are_answered_unpruned(checkpoints: Checkpoints, tmp_path: Path) -> None:
    from PIL import Image

    Image.new("RGB", (64, 64), "red").save(tmp_path / "red.png")
    tasks = write_task(tmp_path / "tasks", [Question(QUESTION, (), [str(tmp_path / "red.png")])])
    arguments = {"pretrained": checkpoints / "qwen2_5_vl", "min_pixels": 784}
    found = evaluate("adatp", {**arguments, "method": "fastv"}, tasks)
    assert said(found) == said(evaluate("adatp", {**arguments, "method": "vanilla"}, tasks))
    [counts] = found["samples"]["asked"][0]["token_counts"]
    assert counts.keys() == {"input_tokens", "output_tokens"}


def test_the_settings_of_the_task_are_kept(checkpoints: Checkpoints, tmp_path: Path) -> None:
    clip = write_clip(tmp_path / "clip.mp4", 8)
    complete = {"max_new_tokens": 3, "temperature": 0}
    tasks = write_task(tmp_path / "whole", [Question(QUESTION, [clip])], complete)
    arguments = {"pretrained": checkpoints / "smolvlm", "frames": 8}
    with noted() as asked:
        [answer] = said(evaluate("adatp", arguments, tasks))
    assert asked.settings[0]["max_new_tokens"] == 3
    assert asked.settings[0]["do_sample"] is False
    assert len(answer.split()) > 1
    tasks = write_task(
        tmp_path / "cut", [Question(QUESTION, [clip])], {**complete, "until": [answer.split()[1]]}
    )
    [cut] = said(evaluate("adatp", arguments, tasks))
    assert cut == answer.split(answer.split()[1])[0] != answer


def test_results_hold_tokens_and_flops(tmp_path: Path) -> None:
    write_tasks(tmp_path / "tasks", 8, 4)
    results = evaluate("adatp", {"pretrained": "embedded", "frames": 8}, tmp_path / "tasks", TASKS)
    figures = results["throughput"]
    assert figures["avg_flops_ratio"] == pytest.approx(0.273, abs=0.003)
    assert figures["avg_documents"] == 8
    assert figures["avg_failed_documents"] == 0
    assert figures["avg_prompt_visual_tokens"] == 8 * 36
    assert figures["avg_visual_tokens_last"] < figures["avg_visual_tokens"] < 8 * 36
    assert f"avg_{TASKS[0]}/flops_ratio" in figures
    tokens = [sample["token_counts"][0]["input_tokens"] for sample in results["samples"][TASKS[0]]]
    assert results["efficiency"]["by_task"][TASKS[0]]["total_input_tokens"] == sum(tokens)


def test_variants_are_named_as_methods_are() -> None:
    given = {"pretrained": "embedded", "method": "adatp-paper", "flops": 0.5, "every": 2}
    assert read_arguments(given).method == AdaTP.paper(flops=0.5, every=2)


@pytest.mark.parametrize(
    ("given", "why"),
    [
        ({}, "pretrained= is missing"),
        ({"method": "fastw"}, "no method 'fastw'"),
        ({"method": "vanilla", "flops": 0.5}, "has no FLOPs target"),
        ({"flops": 2.0}, "in (0, 1]"),
        ({"frames": 0}, "frames= is a number of 1 or more"),
        ({"frames": 1.5}, "frames= is a number of 1 or more"),
        ({"prompts": "mine"}, "prompts= is one of"),
    ],
)
def test_wrong_arguments_are_one_line(given: dict[str, object], why: str) -> None:
    with pytest.raises(AdaTPError) as caught:
        read_arguments({**({"pretrained": "embedded"} if given else {}), **given})
    assert why in str(caught.value)
    assert "\n" not in str(caught.value)


def test_arguments_that_nobody_knows(checkpoints: Checkpoints, tmp_path: Path) -> None:
    tasks = write_task(tmp_path / "tasks", [Question(QUESTION)])
    with pytest.raises(RefusedError, match="no argument max_frames="):
        evaluate("adatp", {"pretrained": checkpoints / "qwen2_5_vl", "max_frames": 8}, tasks)


def test_two_processes_answer_each_a_share(tmp_path: Path) -> None:
    """The program itself, started as on a machine with two GPUs. Three documents: one process repeats one."""
    write_tasks(tmp_path / "tasks", 8, 3)
    arguments = {"pretrained": "embedded", "flops": 0.273, "frames": 8}
    alone = evaluate("adatp", arguments, tmp_path / "tasks", TASKS[:1])
    command = [sys.executable, "-m", "accelerate.commands.launch", "--cpu", "--num_processes", "2"]
    command += ["--main_process_port", "0", "-m", "lmms_eval", "--model", "adatp", "--device", "cpu"]
    command += ["--model_args", "pretrained=embedded,flops=0.273,frames=8", "--tasks", TASKS[0]]
    command += ["--include_path", str(tmp_path / "tasks"), "--log_samples"]
    command += ["--output_path", str(tmp_path / "out"), "--batch_size", "1"]
    here = Path(__file__).parent
    paths = [str(here / "site"), os.environ.get("PYTHONPATH", "")]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    [results] = (tmp_path / "out").rglob("*_results.json")
    assert done.returncode == 0, done.stderr
    figures = json.loads(results.read_text())["throughput"]
    assert figures["avg_documents"] == 3
    [samples] = (tmp_path / "out").rglob(f"*_samples_{TASKS[0]}.jsonl")
    lines = [json.loads(line) for line in samples.read_text().splitlines()]
    answers = [line["filtered_resps"] for line in sorted(lines, key=lambda each: each["doc_id"])]
    assert answers == said(alone, TASKS[0])
