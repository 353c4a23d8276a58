"""``adatp paper`` without lmms-eval: a program in its place writes results as it does."""

from __future__ import annotations

import json
import os
import shlex
import signal
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from adatp.errors import AdaTPError, RefusedError
from adatp.paper import running
from adatp.paper.gathering import GatheringError, Outcome, gather, score_of
from adatp.paper.plan import Model, Plan, Run, Task, read_plan
from adatp.paper.running import carry_out, command_of, described, outcomes
from adatp.paper.table import compared, markdown, published, rows_of

HARNESS = """
import json, sys
from pathlib import Path

words = [word for word in sys.argv[1:] if word != "--log_samples"]
arguments = dict(zip(words[::2], words[1::2]))
out, task = Path(arguments["--output_path"]) / "model", arguments["--tasks"]
with open("{log}", "a") as log:
    log.write(arguments["--model_args"] + " " + task + "\\n")
if Path("{fails}").exists() and Path("{fails}").read_text() in arguments["--model_args"]:
    print("no memory")
    sys.exit(0)
out.mkdir(parents=True)
right = 3 if "vanilla" in arguments["--model_args"] else 2
counts = {{"flops_ratio": 0.25, "visual_tokens": 25, "prompt_visual_tokens": 100, "milliseconds": 10.0}}
samples = [
    {{"doc_id": n, "acc": {{"score": int(n < right)}}, "token_counts": [counts]}} for n in range(4)
]
(out / "1_samples_task.jsonl").write_text("\\n".join(json.dumps(each) for each in samples))
results = {{
    "results": {{task: {{"alias": task, "acc,none": right / 4, "acc_stderr,none": 0.1}}}},
    "throughput": {{"avg_failed_documents": 1.0, "avg_peak_memory_gb": 2.0}},
    "total_evaluation_time_seconds": "8.0",
}}
(out / "1_results.json").write_text(json.dumps(results))
"""


@pytest.fixture
def plan(tmp_path: Path) -> Plan:
    program = tmp_path / "harness.py"
    program.write_text(HARNESS.format(log=tmp_path / "log", fails=tmp_path / "fails"))
    return Plan(
        models=(Model("small", "some/model"),),
        tasks=(Task("one", "acc", 4), Task("two", "acc", 4, "fine-grained")),
        budgets=(0.3,),
        methods=("adatp", "fastv"),
        launch=(sys.executable, str(program)),
    )


def asked(tmp_path: Path) -> int:
    """How often the program has run."""
    return len((tmp_path / "log").read_text().splitlines())


class TestPlan:
    def test_the_default_is_the_papers_table(self) -> None:
        plan = read_plan(None)
        assert {task.part for task in plan.tasks} == {"multiple choice", "fine-grained"}
        assert len(plan.runs()) == len(plan.tasks) * (1 + len(plan.methods) * len(plan.budgets))
        assert plan.runs()[0].method == "vanilla"
        assert len({run.folder for run in plan.runs()}) == len(plan.runs())
        first = plan.runs()[1]
        assert first.model_args == (
            "pretrained=llava-hf/llava-onevision-qwen2-7b-ov-hf,method=adatp,flops=0.273,frames=32"
        )

    @pytest.mark.parametrize(
        ("old", "new", "why"),
        [
            ("frames = 32 ", "frames = 0 ", "frames is a whole number of 1 or more"),
            ("budgets = [0.273, 0.15, 0.10]", "budgets = [27]", "in (0, 1], not 27"),
            ('"fastv"', '"fastw"', "no method 'fastw'"),
            ("batch_size = 1", "batchsize = 1", "no setting 'batchsize'"),
            ('metric = "score"', "", "a setting is missing"),
            ('name = "videomme"', 'name = "mvbench"', "two tasks have the same name"),
            (
                "budgets = [0.273, 0.15, 0.10]",
                "budgets = [0.1, 0.1000000001]",
                "two budgets have the same name",
            ),
            ("qwen2-7b-ov-hf", "qwen2,7b", "lmms-eval splits values at commas"),
            ("[[models]]", "[models]", "models is a list"),
            ('name = "mvbench"', "name = 5", "task 5: name is a text, not 5"),
            ("documents = 4000 ", 'documents = "many" ', "documents is a number above 0, not 'many'"),
            ("seconds = 1.5 ", "seconds = true ", "seconds is a number above 0, not True"),
            ("# arguments = {", "arguments = 3 # {", "arguments is a table, not 3"),
            (
                "# arguments = {",
                "arguments = { flops = 0.5 } # {",
                "flops is no argument: the plan has its own",
            ),
            ('"fastv"', '["fastv"]', "no method ['fastv']"),
            ("batch_size = 1", "batch_size = 1\ninclude_path = 2", "include_path is a folder, not 2"),
            ("frames = 32 ", "frames = ", "no TOML"),
        ],
    )
    def test_what_is_wrong_is_one_line(self, tmp_path: Path, old: str, new: str, why: str) -> None:
        import adatp.paper

        text = (Path(adatp.paper.__file__).parent / "paper.toml").read_text()
        assert old in text
        (tmp_path / "plan.toml").write_text(text.replace(old, new, 1))
        with pytest.raises(RefusedError) as caught:
            read_plan(tmp_path / "plan.toml")
        assert why in str(caught.value)
        assert "\n" not in str(caught.value)


class TestRunning:
    def test_it_goes_on_where_it_stopped(self, plan: Plan, tmp_path: Path) -> None:
        out = tmp_path / "out"
        carry_out(plan.runs()[:2], out)
        half = out / plan.runs()[2].folder / "model"  # a run that was killed
        half.mkdir(parents=True)
        (half / "0_results.json").write_text("{")
        complete = carry_out(plan.runs(), out)
        assert asked(tmp_path) == len(plan.runs()) == len(complete)
        assert carry_out(plan.runs(), out) == complete
        assert asked(tmp_path) == len(plan.runs())

    def test_a_run_that_fails_is_passed_over_and_tried_again(self, plan: Plan, tmp_path: Path) -> None:
        (tmp_path / "fails").write_text("fastv")
        reasons: list[str] = []

        def tell(run: Run, result: Outcome | str | None) -> None:
            reasons.extend([result] if isinstance(result, str) else [])

        complete = carry_out(plan.runs(), tmp_path / "out", progress=tell)
        assert len(complete) == len(plan.runs()) - 2
        assert "wrote no results" in reasons[0]
        assert "no memory" in (tmp_path / "out" / plan.runs()[2].folder / "log.txt").read_text()
        (tmp_path / "fails").unlink()
        assert len(carry_out(plan.runs(), tmp_path / "out")) == len(plan.runs())
        assert asked(tmp_path) == len(plan.runs()) + 2

    def test_a_run_killed_amid_its_documents_is_not_complete(self, plan: Plan, tmp_path: Path) -> None:
        program = Path(plan.launch[1])
        program.write_text(program.read_text() + "\nos = __import__('os'); os.kill(os.getpid(), 9)\n")
        reasons: list[Outcome | str | None] = []
        runs = plan.runs()[:1]
        assert not carry_out(runs, tmp_path / "out", progress=lambda _, result: reasons.append(result))
        assert "ended with exit code -9" in str(reasons[1])
        assert outcomes(runs, tmp_path / "out") == {}

    def test_sigterm_ends_what_was_started(self, tmp_path: Path) -> None:
        log = tmp_path / "log"
        program = "import os, time; print(os.getpid(), flush=True); time.sleep(30)"

        def end() -> None:
            while not (log.exists() and log.read_text().endswith("\n")):
                time.sleep(0.01)
            os.kill(os.getpid(), signal.SIGTERM)

        before = signal.signal(signal.SIGTERM, lambda *_: None)
        try:
            threading.Thread(target=end).start()
            with pytest.raises(KeyboardInterrupt):
                running._start([sys.executable, "-c", program], log, {})
        finally:
            signal.signal(signal.SIGTERM, before)
        with pytest.raises(ProcessLookupError):
            os.kill(int(log.read_text()), 0)

    def test_documents_cut_short_are_one_line(self, plan: Plan, tmp_path: Path) -> None:
        carry_out(plan.runs()[:1], tmp_path / "out")
        folder = tmp_path / "out" / plan.runs()[0].folder
        [samples] = folder.rglob("*_samples_*.jsonl")
        samples.write_text(samples.read_text()[:-5])
        with pytest.raises(GatheringError, match="documents that lmms-eval wrote can't be read"):
            gather(folder, plan.runs()[0].facts())

    def test_what_another_process_completed_meanwhile_is_not_run_again(
        self, plan: Plan, tmp_path: Path
    ) -> None:
        runs = plan.runs()[:2]

        def other(run: Run, result: Outcome | str | None) -> None:
            if run == runs[0] and result is not None:
                carry_out(runs[1:], tmp_path / "out")

        assert len(carry_out(runs, tmp_path / "out", progress=other)) == 2
        assert asked(tmp_path) == 2

    def test_what_is_named_twice_is_run_once(self, plan: Plan) -> None:
        twice = replace(plan, budgets=(0.3, 0.3), methods=("adatp", "fastv", "adatp", "vanilla"))
        assert [run.label for run in twice.runs()] == [run.label for run in plan.runs()]

    def test_variants_run_as_methods_do(self, plan: Plan) -> None:
        asked = replace(plan, budgets=(0.3,), methods=("adatp-paper", "vanilla"))
        assert [(run.method, run.budget) for run in asked.runs()[:2]] == [
            ("vanilla", None),
            ("adatp-paper", 0.3),
        ]

    def test_a_command_can_be_pasted(self, plan: Plan, tmp_path: Path) -> None:
        spaced = replace(plan, models=(Model("mine", "/my models/one"),))
        first = described(spaced, spaced.runs()[:1], {}, tmp_path).splitlines()[0]
        assert "pretrained=/my models/one,method=vanilla,frames=32" in shlex.split(first)

    def test_results_of_another_plan_are_refused(self, plan: Plan, tmp_path: Path) -> None:
        carry_out(plan.runs()[:1], tmp_path / "out")
        other = replace(plan, frames=64)
        with pytest.raises(GatheringError, match=r"model_args is .*frames=32.*frames=64.*give another --out"):
            outcomes(other.runs(), tmp_path / "out")
        (tmp_path / "out" / plan.runs()[0].folder / "done.json").write_text("{")
        with pytest.raises(GatheringError, match=r"done\.json: damaged"):
            outcomes(plan.runs(), tmp_path / "out")

    def test_what_would_be_run(self, plan: Plan, tmp_path: Path) -> None:
        text = described(plan, plan.runs(), {}, tmp_path)
        *commands, _, last = text.splitlines()
        assert len(commands) == len(plan.runs())
        assert (
            "--model adatp --model_args pretrained=some/model,method=adatp,flops=0.3,frames=32" in commands[1]
        )
        assert last.startswith("6 of 6 runs are left (2 of vanilla)")
        complete = carry_out(plan.runs()[:1], tmp_path / "out")
        assert "5 of 6 runs are left" in described(plan, plan.runs(), complete, tmp_path)

    def test_options_become_arguments(self, plan: Plan, tmp_path: Path) -> None:
        run = replace(plan, limit=3, include_path="tasks").runs()[0]
        words = command_of(run, tmp_path)
        assert words[words.index("--limit") + 1] == "3"
        assert words[words.index("--include_path") + 1] == "tasks"


class TestGathering:
    @pytest.mark.parametrize(
        ("record", "score"),
        [
            (1.0, 1.0),
            ({"pred_answer": "A", "gt_answer": "B", "score": 0}, 0.0),  # MVBench
            ({"pred_answer": "a", "answer": "A", "score": 1.0}, 1.0),  # VideoMME
            ({"pred_answer": "B", "answer": "A"}, 0.0),  # MLVU
            ({"parsed_pred": "C", "answer": "C"}, 1.0),  # LongVideoBench
            ({"pred": 2, "ground_truth": "2"}, 1.0),  # EgoSchema
            ({"rating": 1, "dim": "speed"}, 1.0),  # TempCompass
            ({"something": "else"}, None),
            (None, None),
        ],
    )
    def test_scores_of_the_fields_tasks(self, record: Any, score: float | None) -> None:
        assert score_of(record) == score

    def test_a_fraction_is_made_per_cent(self, plan: Plan, tmp_path: Path) -> None:
        [outcome] = carry_out(plan.runs()[:1], tmp_path / "out").values()
        assert outcome.score == 75
        assert outcome.documents == {"task/0": 1, "task/1": 1, "task/2": 1, "task/3": 0}
        assert (outcome.failed, outcome.seconds, outcome.peak_memory_gb) == (1, 8.0, 2.0)
        assert outcome.figures["flops_ratio"] == 0.25

    def test_a_group_is_the_mean_of_its_tasks(self, tmp_path: Path) -> None:
        results = {
            "results": {"group": {"alias": "group"}, "a": {"acc,none": 40.0}, "b": {"acc,none": 60.0}},
            "group_subtasks": {"group": ["a", "b"]},
        }
        (tmp_path / "1_results.json").write_text(json.dumps(results))
        assert gather(tmp_path, {"task": "group", "metric": "acc"}).score == 50
        with pytest.raises(GatheringError, match="no metric 'accuracy' in its results"):
            gather(tmp_path, {"task": "a", "metric": "accuracy"})

    @pytest.mark.parametrize("results", ["{}", "[]", '{"results": null}'])
    def test_results_without_results_are_one_line(self, tmp_path: Path, results: str) -> None:
        (tmp_path / "1_results.json").write_text(results)
        with pytest.raises(GatheringError, match="lmms-eval wrote no results"):
            gather(tmp_path, {"task": "a", "metric": "acc"})

    def test_a_throughput_of_null_is_none(self, tmp_path: Path) -> None:
        results = {"results": {"a": {"acc,none": 40.0}}, "throughput": None}
        (tmp_path / "1_results.json").write_text(json.dumps(results))
        assert gather(tmp_path, {"task": "a", "metric": "acc"}).peak_memory_gb is None


class TestTable:
    def test_differences_are_paired(self) -> None:
        def outcome(scores: list[float]) -> Outcome:
            documents = {str(number): score for number, score in enumerate(scores)}
            return Outcome({}, 100 * sum(scores) / len(scores), documents, {}, 0, 1.0, None)

        vanilla = outcome([1] * 80 + [0] * 20)
        same = compared(outcome([1] * 80 + [0] * 20), vanilla)
        assert (same["delta"], same["delta_low"], same["delta_high"], same["p_value"]) == (0, 0, 0, 1)
        worse = compared(outcome([0] * 20 + [1] * 60 + [0] * 20), vanilla)
        assert worse["delta"] == pytest.approx(-20)
        assert worse["delta_low"] < -20 < worse["delta_high"] < 0
        assert worse["p_value"] == pytest.approx(2 / 2**20)
        assert compared(vanilla, vanilla)["delta"] is None
        overlap = compared(outcome([0.5] * 100), vanilla)  # not right or wrong: no McNemar
        assert overlap["delta"] == pytest.approx(-30)
        assert overlap["p_value"] is None

    def test_rows_and_text(self, plan: Plan, tmp_path: Path) -> None:
        complete = carry_out(plan.runs(), tmp_path / "out")
        rows = rows_of(plan, complete)
        assert [(row["part"], row["method"]) for row in rows[:3]] == [
            ("multiple choice", "vanilla"),
            ("multiple choice", "adatp"),
            ("multiple choice", "fastv"),
        ]
        assert rows[1]["relative"] == pytest.approx(100 * 2 / 3)
        assert rows[1]["tokens_ratio"] == 0.25
        text = markdown(plan, rows)
        assert "## small, 32 frames: fine-grained" in text
        assert "| adatp 30 % | 25.0 | 25.0 | 50.0 [" in text
        assert "published" not in text
        missing = {run: found for run, found in complete.items() if run.method != "vanilla"}
        assert rows_of(plan, missing)[0]["relative"] is None

    def test_published_numbers_have_sources(self) -> None:
        plan = read_plan(None)
        text = published(plan.models[0], plan)
        assert text is not None
        assert "| Vanilla | 100 | 40.8T | 58.3 | 56.4 | - | 58.6 | 60.4 | 100.0 | HT |" in text
        assert "HT: HoliTom's tables" in text
        assert published(plan.models[0], replace(plan, frames=16)) is None


Command = Callable[..., tuple[int, str, str]]


class TestCommand:
    def test_the_default_plan_can_be_copied(self, run: Command, tmp_path: Path) -> None:
        _, text, _ = run("paper", "--show-plan")
        (tmp_path / "mine.toml").write_text(text.replace("# limit = 100", "limit = 7"))
        assert read_plan(tmp_path / "mine.toml").limit == 7
        code, text, err = run("paper", tmp_path / "mine.toml", "--dry-run", "--out", tmp_path / "out")
        assert (code, err) == (0, "")
        assert text.count("--limit 7") == len(read_plan(None).runs())
        assert not (tmp_path / "out").exists()

    @pytest.mark.skipif(find_spec("lmms_eval") is not None, reason="says what to do without lmms-eval")
    def test_shards_are_every_run_once(self, run: Command, tmp_path: Path) -> None:
        def commands(*options: str) -> list[str]:
            code, text, _ = run("paper", "--dry-run", "--out", tmp_path / "out", *options)
            assert code == 0
            return [line for line in text.splitlines() if line.startswith("python ")]

        shards = [commands("--shard", f"{number}/3") for number in (1, 2, 3)]
        everything = commands()
        assert shards == [everything[first::3] for first in range(3)]
        assert len(everything) > 3

    def test_without_lmms_eval(self, run: Command, tmp_path: Path) -> None:
        code, out, err = run("paper", "--out", tmp_path / "out")
        assert (code, out) == (2, "")
        assert err == 'adatp: lmms-eval is not installed: pip install "adatp[lmms-eval]"\n'
        assert not (tmp_path / "out").exists()

    def test_gathers_what_is_there(self, run: Command, plan: Plan, tmp_path: Path) -> None:
        carry_out(plan.runs()[:3], tmp_path / "out")
        (tmp_path / "plan.toml").write_text(
            "budgets = [0.3]\nmethods = ['adatp', 'fastv']\n"
            "[[models]]\nname = 'small'\npretrained = 'some/model'\n"
            "[[tasks]]\nname = 'one'\nmetric = 'acc'\n"
        )
        code, text, err = run("paper", tmp_path / "plan.toml", "--gather-only", "--out", tmp_path / "out")
        assert (code, err) == (0, "")
        assert text == (tmp_path / "out" / "table.md").read_text()
        assert len(json.loads((tmp_path / "out" / "table.json").read_text())["rows"]) == 3
        (tmp_path / "out" / plan.runs()[2].folder / "done.json").unlink()
        code, _, err = run("paper", tmp_path / "plan.toml", "--gather-only", "--out", tmp_path / "out")
        assert code == 2
        assert "1 of 3 runs are missing: small/one/fastv@0.3" in err

    @pytest.mark.parametrize("options", [("missing.toml",), ("--shard", "5"), ("x.toml", "--offline-check")])
    def test_bad_input_is_one_line(self, run: Command, options: tuple[str, ...]) -> None:
        code, out, err = run("paper", *options, "--dry-run")
        assert (code, out, err.count("\n")) == (2, "", 1)

    def test_a_check_has_a_folder_of_its_own(self, run: Command, monkeypatch: pytest.MonkeyPatch) -> None:
        folders: list[Path] = []
        monkeypatch.setattr("adatp.cli.paper.carry_out", lambda _, out, *rest: folders.append(out))
        assert run("paper")[0] == run("paper", "--offline-check")[0] == 0
        assert folders == [Path("paper"), Path("paper-check")]


def test_errors_are_ours() -> None:
    assert issubclass(GatheringError, AdaTPError)
