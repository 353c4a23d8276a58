"""``adatp run``: what is answered, what is written, what is gone on with."""

from __future__ import annotations

import json
import os
import random
import shutil
import subprocess
import sys
import time
import tracemalloc
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from adatp import AdaTP, Session
from adatp.cli import main
from adatp.methods import Random
from adatp.run import Answering, Job, Settings, Summary
from adatp.run import run as run_job
from adatp.run.folder import Folder
from adatp.run.preparing import prepare, units
from adatp.run.rows import Row, read_rows
from adatp.run.workers import WorkerError, Workers, decoder_threads
from adatp.tiny import CLIP
from adatp.video.opening import decoded_by, open_stream
from run_clips import write_rows
from run_kills import lines_in
from run_rows import FRAMES, answers
from running import Run

QUICK = ("--frames", FRAMES, "--workers", 0, "--batch", 4)
FAILED = ["corrupt.mp4", "empty.mp4", "missing.mp4"]


@pytest.fixture(scope="module")
def session() -> Session:
    return Session(device="cpu")


@pytest.fixture(scope="module")
def whole(rows: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The output of a run that nobody disturbs."""
    out = tmp_path_factory.mktemp("whole") / "out"
    assert main(["run", str(rows), "--out", str(out), *map(str, QUICK), "--rows-per-file", "4"]) == 1
    return out


@pytest.mark.filterwarnings("ignore:the prompt takes .* the least that adatp can do")
def test_a_target_out_of_reach_is_met_as_far_as_it_goes(run: Run, tmp_path: Path) -> None:
    """Of each row, whoever names the target, and the row says so; as an error where that is asked for."""
    good = {"video": str(CLIP), "question": "what colour is the star ?"}
    asked = [good, {**good, "flops": 0.9}, {**good, "strict": True}, {**good, "strict": "yes"}]
    rows = write_rows(tmp_path / "rows.jsonl", asked[:3])
    code, _, _ = run("run", rows, "--out", tmp_path / "out", "--flops", 0.0001, *QUICK)
    assert code == 1
    low, reached, refused = answers(tmp_path / "out")
    assert low["answer"]
    assert low["flops_target"] == 0.0001 < low["flops_ratio"] < 0.1
    assert low["out_of_reach"]
    assert reached["flops_ratio"] <= 0.9
    assert reached["out_of_reach"] is None
    assert "0.0001 of vanilla FLOPs is out of reach" in refused["error"]
    assert run("run", rows, "--out", tmp_path / "all", "--flops", 0.0001, "--strict", *QUICK)[0] == 1
    assert [each["answer"] is None for each in answers(tmp_path / "all")] == [True, False, True]
    code, _, err = run("run", write_rows(tmp_path / "bad.jsonl", asked), "--out", tmp_path / "bad", *QUICK)
    assert (code, "strict is true or false, not 'yes'" in err) == (2, True)


def test_every_row_is_answered_as_a_session_answers_it(whole: Path, rows: Path, session: Session) -> None:
    found = answers(whole)
    asked = list(read_rows(rows, Settings(frames=FRAMES)))
    assert [row["row"] for row in found] == list(range(len(asked)))
    assert [row["id"] for row in found if row["error"] is not None] == FAILED
    assert len({tuple(row) for row in found}) == 1  # the same names in every row
    for row, had in zip(asked, found, strict=True):
        assert (had["id"], had["video"], had["question"]) == (row.id, row.video, row.question)
        if had["error"] is not None:
            assert had["answer"] is None
            assert str(rows.parent / row.video) in had["error"]
            continue
        prompt = session.prepare(rows.parent / row.video, row.question, frames=row.settings.frames)
        method = Random(flops=0.5) if row.id == "last" else AdaTP()
        answer = session.answer(prompt, method, max_new_tokens=row.settings.max_new_tokens)
        assert had["answer"] == answer.text
        assert had["new_tokens"] == answer.new_tokens
        assert had["flops_ratio"] == pytest.approx(answer.report.flops_ratio, rel=1e-12)
        assert had["visual_tokens_last"] == answer.report.visual_tokens[-1][0]
        assert had["method"] == method.name
        assert had["flops_target"] == method.flops
    assert found[1]["visual_tokens"] < found[0]["visual_tokens"]


def test_the_summary_counts_and_the_exit_code_tells(rows: Path, run: Run, tmp_path: Path) -> None:
    code, out, err = run("run", rows, "--out", tmp_path / "out", *QUICK, "--json", tmp_path / "summary.json")
    assert code == 1
    assert "9 of 12 rows answered, 3 failed" in out
    assert "failed: empty.mp4:" in out
    assert "the file is empty" in out
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert (summary["rows"], summary["failed"], summary["asked"]) == (12, 3, 12)
    assert 0.27 < summary["flops_ratio"] < 0.4
    # Nine questions about three videos; one of them with other frames.
    assert (summary["videos"], summary["videos_shared"]) == (4, 5)
    good = write_rows(
        tmp_path / "good.jsonl", [{"video": str(rows.parent / "clips/0000.mp4"), "question": "who ?"}]
    )
    code, out, err = run("run", good, "--out", tmp_path / "good", *QUICK)
    assert (code, err) == (0, "")
    code, out, err = run("run", good, "--out", tmp_path / "good", *QUICK)
    assert code == 0
    assert "this run: 0 rows" in out


def test_rows_stand_in_batches_of_equal_settings(rows: Path, session: Session, monkeypatch: Any) -> None:
    batches: list[list[int]] = []
    ask = Session.answer_batch

    def spy(self: Session, prompts: Sequence[Any], *args: Any, **kwargs: Any) -> Any:
        batches.append([prompt.inputs["pixel_values_videos"].shape[1] for prompt in prompts])
        return ask(self, prompts, *args, **kwargs)

    monkeypatch.setattr(Session, "answer_batch", spy)
    asked = list(read_rows(rows, Settings(frames=FRAMES)))
    with Answering(session, batch=4, workers=0) as answering:
        found = list(answering.answer(units(asked, rows.parent)))
    assert sorted(outcome.row.number for outcome in found) == list(range(len(asked)))
    assert sorted(batches, key=len, reverse=True)[0] == [FRAMES] * 4
    assert all(len(set(frames)) == 1 for frames in batches)
    assert sum(map(len, batches)) == len(asked) - len(FAILED)


def test_worker_processes_prepare_what_this_one_prepares(rows: Path, session: Session) -> None:
    asked = units(read_rows(rows, Settings(frames=FRAMES)), rows.parent)
    with Workers(session.processor, session.config, 1) as workers:
        for unit in asked:
            workers.give(unit)
        ready = [workers.take(wait=True) for _ in asked]
        assert workers.take(wait=True) is None
    for unit, made in zip(asked, ready, strict=True):
        assert made is not None
        assert made.unit is unit
        for mine, theirs in zip(prepare(session.processor, session.config, unit), made.prepared, strict=True):
            assert type(mine) is type(theirs)
            if isinstance(mine, str):
                assert mine == theirs
            else:
                assert mine.text == theirs.text
                assert all((theirs.inputs[name] == value).all() for name, value in mine.inputs.items())
        shared = [p.inputs["pixel_values_videos"] for p in made.prepared if not isinstance(p, str)]
        assert all(pixels is shared[0] for pixels in shared)


def test_a_video_that_kills_or_holds_its_reader_costs_its_rows_alone(
    rows: Path, session: Session, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A stand-in for the decoder, which the worker imports first, dies of one file and hangs in another."""
    (tmp_path / "sitecustomize.py").write_text(
        "import os, sys, time\n"
        "import adatp.run.preparing as made\n"
        "read = made.read_source\n"
        "def stand_in(path, frames, **more):\n"
        "    if 'killer' in path: os.kill(os.getpid(), 11)\n"
        "    if 'slow' in path: time.sleep(1000)\n"
        "    return read(path, frames, **more)\n"
        "made.read_source = stand_in\n"
    )
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}{os.pathsep}{os.pathsep.join(filter(None, sys.path))}")
    path = rows.parent / "clips"
    names = ["0000.mp4", "killer.mp4", "slow.mp4", "0001.mp4"]
    made = [
        Row(n, n, str(path / name), "what is the star ?", Settings(frames=4)) for n, name in enumerate(names)
    ]
    with Workers(session.processor, session.config, 1, patience=20) as workers:
        workers.give(units(made[:1], Path())[0])
        assert workers.take(wait=True) is not None  # it has started
        workers._patience = 2
        for unit in units(made[1:], Path()):
            workers.give(unit)
        ready = [workers.take(wait=True) for _ in made[1:]]
    said = [each.prepared[0] for each in ready if each is not None]
    assert "the process that read it ended (signal 11)" in str(said[0])
    assert "longer than 2 s" in str(said[1])
    assert not isinstance(said[2], str)


def test_a_processor_that_can_not_be_copied_is_one_line(rows: Path, session: Session) -> None:
    class Alone:
        def __reduce__(self) -> str:
            raise RuntimeError("a handle of a device")

    [unit, *_] = units(read_rows(rows, Settings(frames=FRAMES)), rows.parent)
    with Workers(Alone(), session.config, 1) as workers:

        def take() -> None:
            for _ in range(3000):
                workers.take(wait=False)
                time.sleep(0.01)

        workers.give(unit)
        with pytest.raises(WorkerError, match=r"sent to a worker \(.*of a device\): use 0 workers"):
            take()


def test_shards_together_are_all_rows(rows: Path, whole: Path, run: Run, tmp_path: Path) -> None:
    out = tmp_path / "out"
    for number in (2, 1):
        code, _, _ = run("run", rows, "--out", out, *QUICK, "--rows-per-file", 4, "--shard", f"{number}/2")
        assert code == 1
    assert answers(out) == answers(whole)


def killed(rows: Path, out: Path, wanted: int, then: float) -> None:
    """Run in a process that is killed some seconds after so many rows are on disk."""
    command = ["run", str(rows), "--out", str(out), *map(str, QUICK), "--rows-per-file", "4", "--batch", "1"]
    program = "import sys; from adatp.cli import main; sys.exit(main(sys.argv[1:]))"
    child = subprocess.Popen([sys.executable, "-c", program, *command], stderr=subprocess.DEVNULL)
    while len(lines_in(out)) < wanted and child.poll() is None:
        time.sleep(0.005)
    time.sleep(then)
    child.kill()
    child.wait()


def test_a_killed_run_goes_on_and_loses_nothing(rows: Path, whole: Path, run: Run, tmp_path: Path) -> None:
    """``benchmarks/run_kills.py`` does it twenty times, with two hundred clips and real processes."""
    out, dice, before = tmp_path / "out", random.Random(0), dict[int, str]()
    for more in (0, 3):  # the first time, amid its start
        killed(rows, out, len(before) + more, dice.uniform(0, 0.1))
        there = lines_in(out)
        assert len(there) >= len(before) + more
        assert {number: there.get(number) for number in before} == before
        before = there
    assert len(before) < 12
    code, _, _ = run("run", rows, "--out", out, *QUICK, "--rows-per-file", 4)
    assert code == 1
    assert answers(out) == answers(whole)
    there = lines_in(out)
    assert {number: there[number] for number in before} == before  # nothing was asked twice
    assert sorted(file.name for file in out.iterdir()) == sorted(file.name for file in whole.iterdir())


def test_a_kill_between_two_steps_of_finishing_a_part(
    whole: Path, rows: Path, run: Run, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    shutil.copytree(whole, out)
    done = out / "part-00001.jsonl"
    shutil.copy(done, out / "part-00001.work.jsonl")  # not yet removed
    shutil.move(out / "part-00002.jsonl", out / "part-00002.work.jsonl")  # complete, but not yet renamed
    code, text, _ = run("run", rows, "--out", out, *QUICK, "--rows-per-file", 4)
    assert code == 1
    assert "this run: 0 rows" in text
    assert answers(out) == answers(whole)


def test_failed_rows_are_asked_again_if_wanted(rows: Path, run: Run, tmp_path: Path) -> None:
    folder = tmp_path / "data"
    shutil.copytree(rows.parent, folder)
    call = ("run", folder / "rows.jsonl", "--out", tmp_path / "out", *QUICK, "--rows-per-file", 5)
    assert run(*call)[0] == 1
    before = {row["row"]: row for row in answers(tmp_path / "out")}
    for name in FAILED:
        shutil.copy(folder / "clips" / "0000.mp4", folder / "clips" / name)
    assert run(*call)[0] == 1  # what is done is done
    code, text, _ = run(*call, "--retry")
    assert code == 0
    assert "this run: 3 rows" in text
    after = {row["row"]: row for row in answers(tmp_path / "out")}
    assert {n for n in before if before[n] != after[n]} == {
        row["row"] for row in after.values() if row["id"] in FAILED
    }


def test_answers_about_other_videos_are_not_gone_on_with(run: Run, tmp_path: Path) -> None:
    """A run may move to another folder with its videos; with other ones, or none, it is another run."""
    for name in ("here", "moved", "empty"):
        (tmp_path / name).mkdir()
        row = {"video": "clip.mp4", "question": "what colour is the star ?"}
        write_rows(tmp_path / name / "rows.jsonl", [row, {**row, "video": "late.mp4"}])
    for name in ("here", "moved"):
        shutil.copyfile(CLIP, tmp_path / name / "clip.mp4")
    out = tmp_path / "out"
    assert run("run", tmp_path / "here" / "rows.jsonl", "--out", out, *QUICK)[0] == 1
    before = (out / "part-00000.jsonl").read_bytes()
    size = CLIP.stat().st_size
    assert [row["video_bytes"] for row in answers(out)] == [size, None]
    code, text, _ = run("run", tmp_path / "moved" / "rows.jsonl", "--out", out, *QUICK)
    assert (code, "this run: 0 rows" in text) == (1, True)
    with (tmp_path / "moved" / "clip.mp4").open("ab") as file:
        file.write(b"x")
    for options, said in (
        ((tmp_path / "empty" / "rows.jsonl",), f"{tmp_path}/empty/clip.mp4 can't be read here"),
        ((tmp_path / "here" / "rows.jsonl", "--root", tmp_path / "empty"), "can't be read here"),
        ((tmp_path / "moved" / "rows.jsonl", "--retry"), f"moved/clip.mp4 has {size + 1:,} bytes here"),
    ):
        code, _, err = run("run", *options, "--out", out, *QUICK)
        assert code == 2
        assert f"holds another run: clip.mp4 had {size:,} bytes there, and " in err
        assert said in err
        assert (out / "part-00000.jsonl").read_bytes() == before


def test_the_option_that_changed_is_named(run: Run, tmp_path: Path) -> None:
    rows = write_rows(tmp_path / "rows.jsonl", [{"video": "none.mp4", "question": "who ?"}])
    assert run("run", rows, "--out", tmp_path / "out", *QUICK)[0] == 1
    for option, value, said in (
        ("--flops", 0.1, "flops is 0.273 there, 0.1 here"),
        ("--max-new-tokens", 5, "max_new_tokens is 64 there, 5 here"),
        ("--method", "random", 'method is "adatp" there, "random" here'),
    ):
        code, _, err = run("run", rows, "--out", tmp_path / "out", *QUICK, option, value)
        assert (code, said in err) == (2, True), err
    same = ("--flops", 0.273, "--batch", 1)  # what the method does by itself; what no answer depends on
    assert run("run", rows, "--out", tmp_path / "out", *QUICK, *same)[0] == 1


def test_equal_ids_are_a_warning(run: Run, tmp_path: Path) -> None:
    asked = [{"id": n % 3, "video": "none.mp4", "question": "who ?"} for n in (0, 1, 2, 5)]
    rows = write_rows(tmp_path / "rows.jsonl", asked)
    code, _, err = run("run", rows, "--out", tmp_path / "out", *QUICK)
    said = f"{rows}: rows 2 and 3, counted from 0, have the same id 2: join the answers by row"
    assert (code, err.splitlines()) == (1, [f"adatp: warning: {said}"])


def test_a_batch_that_fails_is_divided(rows: Path, session: Session, monkeypatch: pytest.MonkeyPatch) -> None:
    ask = Session.answer_batch

    def short_of_memory(self: Session, prompts: Sequence[Any], *args: Any, **kwargs: Any) -> Any:
        if len(prompts) > 1:
            raise RuntimeError("CUDA out of memory")
        if "star" in prompts[0].question:
            raise KeyError("a bug of somebody's")
        return ask(self, prompts, *args, **kwargs)

    monkeypatch.setattr(Session, "answer_batch", short_of_memory)
    video = str(rows.parent / "clips" / "0000.mp4")
    questions = ["what colour is the square ?", "where is the star ?", "what is the last thing ?"]
    asked = [Row(n, n, video, question, Settings(frames=4)) for n, question in enumerate(questions)]
    with Answering(session, batch=4, workers=0) as answering:
        found = {each.row.number: each.facts for each in answering.answer(units(asked, Path()))}
    assert found[1]["error"].startswith("unexpected KeyError")
    assert found[0]["error"] is None
    assert found[2]["answer"]


@pytest.mark.parametrize(("cores", "workers", "threads"), [(2, 1, 1), (16, 8, 1), (16, 1, 8), (1, 1, 1)])
def test_workers_decode_with_their_share_of_the_cores(
    monkeypatch: pytest.MonkeyPatch, cores: int, workers: int, threads: int
) -> None:
    monkeypatch.setattr("adatp.run.workers.cores", lambda: cores)
    assert decoder_threads(workers) == threads


def test_a_decoder_has_the_threads_that_it_is_given(rows: Path) -> None:
    clip = str(rows.parent / "clips" / "0000.mp4")
    with decoded_by(1), open_stream(clip, 0) as (_, stream):
        assert stream.codec_context.thread_count == 1
    with open_stream(clip, 0) as (_, stream):
        assert stream.codec_context.thread_count == 0  # as many as there are cores


@pytest.mark.parametrize("workers", [0, 1])
def test_who_stops_early_leaves_nothing_to_the_next_call(rows: Path, session: Session, workers: int) -> None:
    def asked(first: int, clips: int) -> list[Row]:
        files = [str(rows.parent / "clips" / f"{clip:04d}.mp4") for clip in range(clips)]
        return [Row(first + n, n, file, "who ?", Settings(frames=2)) for n, file in enumerate(files)]

    with Answering(session, batch=1, workers=workers) as answering:
        for _outcome in answering.answer(units(asked(0, 4), Path())):
            break
        found = [each.row.number for each in answering.answer(units(asked(10, 2), Path()))]
        assert found == [10, 11]
        assert answering._workers.waiting == 0


def test_a_broken_model_ends_the_run(rows: Path, session: Session, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*args: Any, **kwargs: Any) -> Any:
        raise RuntimeError("device-side assert triggered")

    monkeypatch.setattr(Session, "answer_batch", broken)
    video = str(rows.parent / "clips" / "0000.mp4")
    asked = [Row(n, n, video, "who ?", Settings(frames=2)) for n in range(20)]
    with (
        Answering(session, batch=4, workers=0) as answering,
        pytest.raises(RuntimeError, match="assert triggered"),
    ):
        list(answering.answer(units(asked, Path())))


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--shard", "0/2"), "shards are counted from 1, so they go from 1/2 to 2/2"),
        (("--method", "magic"), "no method 'magic'"),
        (("--method", "vanilla", "--flops", "0.5"), "has no FLOPs target"),
        (("--dtype", "int4"), "--dtype is one of"),
        (("--model", "nowhere"), "no such model folder"),
        (("--ray",), "Ray is not installed"),
        (("--actors", "2"), "--actors and --gpus are for --ray"),
        (("--gpus", "1"), "--actors and --gpus are for --ray"),
    ],
)
def test_bad_options_are_one_line_and_leave_nothing(
    rows: Path, run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, options: tuple[str, ...], said: str
) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    code, out, err = run("run", rows, "--out", tmp_path / "out", *QUICK, *options)
    assert (code, out) == (2, "")
    assert said in err
    assert len(err.splitlines()) == 1
    assert not list(tmp_path.iterdir())


def test_outputs_never_destroy_inputs(rows: Path, whole: Path, run: Run, tmp_path: Path) -> None:
    data = tmp_path / "data"
    data.mkdir()
    source = data / "part-00000.jsonl"
    shutil.copy(rows, source)
    for out, options, said in (
        (data, (), "which would be lost"),
        (source, (), "not a folder"),
        (tmp_path / "out", ("--json", source), "which would be lost"),
        (whole, ("--json", whole / "summary.json"), "in the folder of --out"),
        (tmp_path / "no" / "where", (), "can't be written"),
    ):
        code, _, err = run("run", source, "--out", out, *QUICK, *options)
        assert code == 2, err
        assert said in err
        assert source.read_bytes() == rows.read_bytes()
    other = write_rows(tmp_path / "other.jsonl", [{"video": "a.mp4", "question": "who ?"}])
    before = answers(whole)
    code, _, err = run("run", other, "--out", whole, *QUICK)
    assert code == 2
    assert "holds another run" in err
    assert answers(whole) == before


def test_progress_is_a_line_now_and_then_in_a_log(
    rows: Path, run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("adatp.cli.running.SECONDS_A_LINE", 0.0)
    code, _, err = run("run", rows, "--out", tmp_path / "out", *QUICK)
    assert code == 1
    assert "answering: 12 of 12 rows" in err.splitlines()[-1]


class _Instant(Answering):
    """Answers at once, without a model, to see what the run itself needs."""

    def answer(self, units: Any) -> Iterator[Any]:
        from adatp.run.answering import Outcome, failure

        for unit in units:
            for row in unit.rows:
                yield Outcome(row, failure(row, "nobody was asked"))


def test_memory_does_not_grow_with_the_number_of_rows(session: Session, tmp_path: Path) -> None:
    peaks = []
    for count in (500, 5_000):
        rows = tmp_path / f"{count}.jsonl"
        rows.write_text(
            "".join(f'{{"video": "{n}.mp4", "question": "{"who " * 20}?"}}\n' for n in range(count))
        )
        job = Job(rows, Path(), size=64)
        tracemalloc.start()
        scanned = job.scan()
        folder = Folder(tmp_path / f"out{count}", {})
        summary: Summary = run_job(
            job, scanned, folder, _Instant(session, workers=0), lambda done, total: None
        )
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
        assert summary.rows == summary.asked == summary.failed == count
    assert peaks[1] < 1.3 * peaks[0] + 100_000  # a dictionary of parts is all that grows


def test_workers_end_with_the_process_that_started_them(session: Session, tmp_path: Path) -> None:
    code = (
        "import os, signal\n"
        "from adatp import Session\n"
        "from adatp.run.workers import Workers\n"
        "session = Session(device='cpu')\n"
        "workers = Workers(session.processor, session.config, 1)\n"
        "workers._start(0)\n"
        "print(workers._running[0].pid, flush=True)\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    worker = int(done.stdout)
    for _ in range(100):
        try:
            os.kill(worker, 0)
            state = Path(f"/proc/{worker}/stat").read_text().rsplit(")", 1)[1].split()[0]
        except (ProcessLookupError, FileNotFoundError):
            break
        if state == "Z":
            break
        time.sleep(0.1)
    else:
        pytest.fail(f"worker {worker} is still there")
