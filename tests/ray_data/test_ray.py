"""Two actors give the answers of one process, also when one of them is killed."""

from __future__ import annotations

import json
import os
import signal
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from adatp.cli import main
from adatp.integrations import ray as on_ray
from adatp.run import TIMES
from run_rows import FRAMES, answers
from running import Run

SETTINGS = ("--frames", str(FRAMES), "--rows-per-file", "3")


@pytest.fixture(scope="module")
def expected(rows: Path, tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """What one process answers."""
    out = tmp_path_factory.mktemp("alone") / "out"
    assert main(["run", str(rows), "--out", str(out), "--workers", "0", *SETTINGS]) == 1
    return answers(out)


COMPARED = (
    *("video", "question", "answer", "error", "method", "flops_target", "flops_ratio"),
    *("visual_tokens", "visual_tokens_last", "new_tokens"),
)


def compared(records: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """What rows of a dataset and those of a run's output have in common; Ray writes ten digits."""
    found = [
        {name: round(value, 6) if isinstance(value := record[name], float) else value for name in COMPARED}
        for record in records
    ]
    return sorted(found, key=lambda record: (record["video"], record["question"]))


def actors() -> list[int]:
    """Processes in which a model of ours answers."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                line = (entry / "cmdline").read_bytes().decode(errors="replace")
            except OSError:
                continue
            if line.startswith("ray::MapWorker(MapBatches("):
                found.append(int(entry.name))
    return found


def test_three_lines_answer_a_dataset(
    cluster: Any, rows: Path, expected: list[dict[str, Any]], tmp_path: Path
) -> None:
    dataset = cluster.data.read_json(str(rows))
    answered = on_ray.answer(
        dataset, actors=2, frames=FRAMES, root=rows.parent, rows_per_block=4, batch=4, workers=0
    )
    answered.write_json(str(tmp_path / "out"))
    files = list((tmp_path / "out").iterdir())
    found = [json.loads(line) for file in files for line in file.read_text().splitlines()]
    assert compared(found) == compared(expected)
    assert {*TIMES, "frames", "id"} <= set(found[0])


def test_rows_that_are_none_are_errors(cluster: Any) -> None:
    records = [{"video": "a.mp4", "question": None}, {"video": None, "question": "who ?"}]
    found = on_ray.answer(cluster.data.from_items(records), frames=FRAMES, workers=0).take_all()
    assert [record["error"] for record in found] == ["question is missing", "video is missing"]


def test_the_command_runs_on_the_cluster(
    cluster: Any, rows: Path, expected: list[dict[str, Any]], run: Run, tmp_path: Path
) -> None:
    call = ("run", rows, "--out", tmp_path / "out", *SETTINGS, "--ray", "--actors", 2, "--workers", 0)
    code, out, _ = run(*call)
    assert code == 1
    assert "9 of 12 rows answered, 3 failed" in out
    assert answers(tmp_path / "out") == expected
    code, out, _ = run(*call)
    assert code == 1
    assert "this run: 0 rows" in out


def test_an_actor_that_is_killed_costs_nothing(
    cluster: Any, rows: Path, expected: list[dict[str, Any]], run: Run, tmp_path: Path
) -> None:
    out, killed = tmp_path / "out", list[int]()

    def kill() -> None:
        began = time.monotonic()
        while time.monotonic() - began < 300:
            work = [file for file in out.glob("part-*.work.jsonl") if file.stat().st_size]
            if work and (there := actors()):
                os.kill(there[0], signal.SIGKILL)
                killed.append(there[0])
                return
            time.sleep(0.005)

    thread = threading.Thread(target=kill)
    thread.start()
    options = ("--ray", "--actors", 2, "--workers", 0, "--batch", 1)
    code, _, _ = run("run", rows, "--out", out, *SETTINGS, *options)
    thread.join()
    assert code == 1
    assert killed
    assert answers(out) == expected


def test_what_actors_refuse_is_one_line(cluster: Any, rows: Path, run: Run, tmp_path: Path) -> None:
    options = ("--ray", "--workers", 0, "--device", "xpu:7")
    code, _, err = run("run", rows, "--out", tmp_path / "out", *SETTINGS, *options)
    assert code == 2
    ours = [line for line in err.splitlines() if not line.startswith("[")]  # Ray's backend writes for itself
    assert len(ours) == 1
    assert ours[0].startswith("adatp: the work on Ray failed: no device 'xpu:7' here")


def test_parquet_holds_the_same_rows(
    rows: Path, expected: list[dict[str, Any]], run: Run, tmp_path: Path
) -> None:
    from pyarrow import Table, parquet

    records = [json.loads(line) for line in rows.read_text().splitlines()]
    file = rows.parent / "rows.parquet"
    columns = ("id", "video", "question", "method", "flops", "frames", "max_new_tokens")
    table = Table.from_pylist([{name: record.get(name) for name in columns} for record in records])
    parquet.write_table(table, file)
    code, _, _ = run("run", file, "--out", tmp_path / "out", *SETTINGS, "--workers", 0)
    assert code == 1
    assert answers(tmp_path / "out") == expected
    (tmp_path / "broken.parquet").write_bytes(b"PAR1 of nothing")
    code, _, err = run("run", tmp_path / "broken.parquet", "--out", tmp_path / "none")
    assert code == 2
    assert "can't be read as Parquet" in err
