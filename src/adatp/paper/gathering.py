"""Reads lmms-eval's results of a run, and stores what the tables need."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from importlib import import_module
from pathlib import Path
from statistics import fmean
from typing import Any

from adatp.errors import AdaTPError

DONE = "done.json"
"""The file that marks a run as complete and holds all its stored results."""


class GatheringError(AdaTPError, ValueError):
    """lmms-eval's results are missing or can't be read."""


@dataclass(frozen=True)
class Outcome:
    """The stored results of one run.

    Attributes:
        facts: facts of the run (see `Run.facts`).
        score: the metric, in per cent, as lmms-eval computes it.
        documents: "task/number" -> score of the document, 0 .. 1, for documents that have their own score.
        figures: means over the documents: tokens, FLOPs, milliseconds.
        failed: documents without an answer.
        seconds: duration of the run, loading included.
        peak_memory_gb: from lmms-eval's results; None: not there.
    """

    facts: Mapping[str, Any]
    score: float
    documents: Mapping[str, float]
    figures: Mapping[str, float]
    failed: int
    seconds: float
    peak_memory_gb: float | None

    def write(self, folder: Path) -> None:
        """Write the results. This completes the run."""
        scratch = folder / f"{DONE}.tmp"
        scratch.write_text(json.dumps(asdict(self)) + "\n")
        scratch.replace(folder / DONE)

    @classmethod
    def read(cls, folder: Path) -> Outcome | None:
        """Read the results that `write` wrote; None if the run is not complete.

        Raises:
            GatheringError: the file is damaged.
        """
        try:
            return cls(**json.loads((folder / DONE).read_text()))
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError as error:
            raise GatheringError(f"{folder / DONE}: can't be read ({error.strerror})") from None
        except (ValueError, TypeError, RecursionError):
            raise GatheringError(f"{folder / DONE}: damaged: remove it, and its run is run again") from None


def gather(folder: Path, facts: Mapping[str, Any]) -> Outcome:
    """Read lmms-eval's results.

    Args:
        folder: its ``--output_path``.
        facts: facts of the run.

    Raises:
        GatheringError: there are none, or the metric is not among them.
    """
    try:
        results = json.loads(max(folder.rglob("*_results.json")).read_text())
        if not isinstance(results["results"], dict):
            raise ValueError(results)
    except (ValueError, TypeError, KeyError, OSError):
        raise GatheringError(
            f"{folder}: lmms-eval wrote no results (its messages are in log.txt there)"
        ) from None
    score = _score(results, facts)
    try:
        documents, figures = _documents(folder, facts["metric"])
    except (ValueError, KeyError, OSError):
        raise GatheringError(f"{folder}: the documents that lmms-eval wrote can't be read") from None
    throughput = results.get("throughput") or {}
    return Outcome(
        facts=dict(facts),
        score=_per_cent(score, documents),
        documents=documents,
        figures={name: fmean(each[name] for each in figures) for name in figures[0]} if figures else {},
        failed=int(throughput.get("avg_failed_documents", 0)),
        seconds=float(results.get("total_evaluation_time_seconds") or 0),
        peak_memory_gb=throughput.get("avg_peak_memory_gb"),
    )


def _documents(folder: Path, metric: str) -> tuple[dict[str, float], list[dict[str, float]]]:
    """Scores of the documents that have one by themselves, and the figures of those that were pruned."""
    documents: dict[str, float] = {}
    figures: list[dict[str, float]] = []
    for name, sample in _samples(folder):
        own = score_of(sample.get(metric))
        if own is not None:
            documents[name] = own
        counts = (sample.get("token_counts") or [None])[0]
        if counts and "flops_ratio" in counts:
            figures.append(counts)
    return documents, figures


def _score(results: Mapping[str, Any], facts: Mapping[str, Any]) -> float:
    """The metric of a task. For a group without one, the mean of its tasks."""
    by_task = {**results.get("groups", {}), **results["results"]}
    task, metric = facts["task"], facts["metric"]
    for names in ([task], results.get("group_subtasks", {}).get(task, [])):
        found = [_metric(by_task.get(name, {}), metric) for name in names]
        if found and None not in found:
            return fmean(value for value in found if value is not None)
    known = {name.split(",")[0] for name in by_task.get(task, {}) if "," in name and "_stderr" not in name}
    raise GatheringError(f"{task}: no metric {metric!r} in its results; there are {', '.join(sorted(known))}")


def _metric(found: Mapping[str, Any], metric: str) -> float | None:
    values = [value for name, value in found.items() if name.startswith(f"{metric},")]
    return float(values[0]) if values and isinstance(values[0], int | float) else None


def _samples(folder: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """The documents of the newest results, each with its name."""
    newest = max(folder.rglob("*_results.json")).name.removesuffix("_results.json")
    for file in sorted(folder.rglob(f"{newest}_samples_*.jsonl")):
        task = file.name.removeprefix(f"{newest}_samples_").removesuffix(".jsonl")
        for line in file.read_text().splitlines():
            sample = json.loads(line)
            yield f"{task}/{sample['doc_id']}", sample


def _per_cent(value: float, documents: Mapping[str, float]) -> float:
    """A metric in per cent: some tasks of lmms-eval give fractions."""
    mean = fmean(documents.values()) if documents else value / 100
    return 100 * value if abs(value - mean) < abs(value - 100 * mean) else value


_PAIRS = (("pred_answer", "answer"), ("parsed_pred", "answer"), ("pred", "ground_truth"))


def score_of(record: Any) -> float | None:
    """The score of one document from its task's record, 0 .. 1; None if the record has none.

    Args:
        record: a number, or a usual record: a score or a rating, an answer next to the right one, or an
            answer about times as "video>>>caption>>>times".
    """
    if isinstance(record, int | float):
        return float(record)
    if not isinstance(record, Mapping):
        return None
    for name in ("score", "rating"):
        if isinstance(record.get(name), int | float):
            return float(record[name])
    for said, right in _PAIRS:
        if said in record and right in record:
            return float(str(record[said]).strip().lower() == str(record[right]).strip().lower())
    if len(record) == 1 and ">>>" in next(iter(record)):
        return _overlap(*next(iter(record.items())))
    return None


def _overlap(key: str, answer: str) -> float | None:
    """For questions about times: intersection over union, as lmms-eval's own task computes it."""
    try:
        task = import_module("lmms_eval.tasks.charades_sta.utils")
    except ImportError:
        return None
    right = json.loads(key.rsplit(">>>", 1)[-1].replace("(", "[").replace(")", "]").replace("'", '"'))
    said = task.extract_time(str(answer))
    return float(task.iou([float(each) for each in right], said[0])) if len(said) == 1 else 0.0
