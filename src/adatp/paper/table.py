"""Turns outcomes into the paper's table: scores with intervals, relative averages, FLOPs, time and memory."""

from __future__ import annotations

import math
import tomllib
from collections.abc import Mapping, Sequence
from importlib.resources import files
from statistics import fmean
from typing import Any

from adatp.evaluation.statistics import bootstrap_interval, mcnemar_p
from adatp.paper.gathering import Outcome
from adatp.paper.plan import VANILLA, Model, Plan, Run

Row = dict[str, Any]


def rows_of(plan: Plan, complete: Mapping[Run, Outcome]) -> list[Row]:
    """A row for each model, part and method that has results.

    Args:
        plan: the plan.
        complete: the outcomes of complete runs.

    Returns:
        Rows with ``model``, ``part``, ``method``, ``budget`` and:

        - ``tasks``: by name, the result of `compared`;
        - ``relative``: the mean over the tasks of per cent of vanilla's score, None if a task or vanilla is
          missing;
        - means over the tasks: real FLOPs (``flops_ratio``), visual tokens kept in all layers
          (``tokens_ratio``), ``milliseconds`` and ``seconds`` per document;
        - ``peak_memory_gb``: the maximum.
    """
    rows = []
    for model in plan.models:
        for part in dict.fromkeys(task.part for task in plan.tasks):
            mine = {run: found for run, found in complete.items() if run.model == model}
            mine = {run: found for run, found in mine.items() if run.task.part == part}
            vanilla = {run.task.name: found for run, found in mine.items() if run.method == VANILLA}
            wanted = [task.name for task in plan.tasks if task.part == part]
            for label in dict.fromkeys(run.label for run in plan.runs()):
                found = {run.task.name: outcome for run, outcome in mine.items() if run.label == label}
                if found:
                    run = next(run for run in mine if run.label == label)
                    named = {"model": model.name, "part": part, "method": run.method, "budget": run.budget}
                    rows.append({**named, **_row(found, vanilla, wanted)})
    return rows


def _row(found: Mapping[str, Outcome], vanilla: Mapping[str, Outcome], wanted: Sequence[str]) -> Row:
    tasks = {name: compared(outcome, vanilla.get(name)) for name, outcome in found.items()}
    shares = [
        100 * outcome.score / vanilla[name].score
        for name, outcome in found.items()
        if name in vanilla and vanilla[name].score
    ]
    figures = [outcome.figures for outcome in found.values() if outcome.figures]
    memory = [each.peak_memory_gb for each in found.values() if each.peak_memory_gb is not None]
    return {
        "tasks": {name: tasks[name] for name in wanted if name in tasks},
        "relative": fmean(shares) if len(shares) == len(wanted) else None,
        "flops_ratio": _mean(figures, "flops_ratio"),
        "tokens_ratio": fmean(each["visual_tokens"] / each["prompt_visual_tokens"] for each in figures)
        if figures
        else None,
        "milliseconds": _mean(figures, "milliseconds"),
        "seconds": _mean([{"s": o.seconds / len(o.documents)} for o in found.values() if o.documents], "s"),
        "peak_memory_gb": max(memory, default=None),
        "failed": sum(outcome.failed for outcome in found.values()),
    }


def _mean(figures: Sequence[Mapping[str, float]], name: str) -> float | None:
    return fmean(each[name] for each in figures) if figures else None


def compared(outcome: Outcome, vanilla: Outcome | None) -> dict[str, Any]:
    """Compare one score with vanilla's on the same documents.

    Returns:
        A dictionary with:

        - ``score`` in per cent, as lmms-eval computes it;
        - ``n`` documents with their own score, and the 95 % bootstrap interval of their mean, ``low`` ..
          ``high``;
        - ``delta`` of the mean to vanilla's on the documents of both, in points, with its paired interval
          ``delta_low`` .. ``delta_high``;
        - ``p_value`` of McNemar's exact test if scores are 0 or 1, else None.

        Values that can't be computed are None.
    """
    scores = list(outcome.documents.values())
    low, high = bootstrap_interval(scores) if scores else (math.nan, math.nan)
    row: dict[str, Any] = {"score": outcome.score, "n": len(scores)}
    row |= {"low": 100 * low, "high": 100 * high} if scores else {"low": None, "high": None}
    row |= dict.fromkeys(("delta", "delta_low", "delta_high", "p_value"))
    if vanilla is None or vanilla is outcome:
        return row
    pairs = [
        (score, vanilla.documents[name])
        for name, score in outcome.documents.items()
        if name in vanilla.documents
    ]
    if not pairs:
        return row
    gained = [score - before for score, before in pairs]
    low, high = bootstrap_interval(gained)
    row |= {"delta": 100 * fmean(gained), "delta_low": 100 * low, "delta_high": 100 * high}
    if all(value in (0, 1) for pair in pairs for value in pair):
        row["p_value"] = mcnemar_p(gained.count(1), gained.count(-1))
    return row


# As text.


def markdown(plan: Plan, rows: Sequence[Row]) -> str:
    """The tables as Markdown: for each model and part one of ours, then published results of others."""
    texts = []
    for model in plan.models:
        for part in dict.fromkeys(task.part for task in plan.tasks):
            mine = [row for row in rows if (row["model"], row["part"]) == (model.name, part)]
            if mine:
                texts.append(f"## {model.name}, {plan.frames} frames: {part}\n\n{_table(plan, part, mine)}")
        if (others := published(model, plan)) is not None:
            texts.append(f"## {model.name}: published\n\n{others}")
    notes = (
        "Brackets are 95 % bootstrap intervals. Below a score stands its difference to vanilla on the same "
        "documents, in points, with the paired interval; * is p < 0.05 of McNemar's exact test. FLOPs are "
        "real ones of the decoder's prefill, tokens are visual ones in the mean layer, both in per cent of "
        "vanilla's. Generating is the time of `generate`; in all is the time of the run, loading included."
    )
    return "\n\n".join([*texts, notes]) + "\n"


def _table(plan: Plan, part: str, rows: Sequence[Row]) -> str:
    tasks = [task.name for task in plan.tasks if task.part == part]
    head = [
        "method",
        "FLOPs %",
        "tokens %",
        *tasks,
        "average %",
        "generating ms",
        "in all s",
        "memory GB",
        "failed",
    ]
    lines = [head, ["---", *["---:"] * (len(head) - 1)]]
    for row in rows:
        name = row["method"] if row["budget"] is None else f"{row['method']} {100 * row['budget']:g} %"
        lines.append(
            [
                name,
                _shown(row["flops_ratio"], 100),
                _shown(row["tokens_ratio"], 100),
                *(_cell(row["tasks"].get(task)) for task in tasks),
                _shown(row["relative"]),
                _shown(row["milliseconds"], digits=0),
                _shown(row["seconds"], digits=2),
                _shown(row["peak_memory_gb"]),
                str(row["failed"]),
            ]
        )
    return _lines(lines)


def _cell(task: Mapping[str, Any] | None) -> str:
    """A score with its interval, and its difference to vanilla."""
    if task is None:
        return "-"
    text = _shown(task["score"])
    text += "" if task["low"] is None else f" [{task['low']:.1f}, {task['high']:.1f}]"
    if task["delta"] is None:
        return text
    star = "*" if task["p_value"] is not None and task["p_value"] < 0.05 else ""
    return f"{text}<br>{task['delta']:+.1f}{star} [{task['delta_low']:+.1f}, {task['delta_high']:+.1f}]"


def _shown(value: float | None, times: float = 1, digits: int = 1) -> str:
    return "-" if value is None else f"{times * value:.{digits}f}"


def _lines(cells: Sequence[Sequence[str]]) -> str:
    return "\n".join(f"| {' | '.join(row)} |" for row in cells)


def published(model: Model, plan: Plan) -> str | None:
    """Published results of a model with as many frames, with their sources; None if none are known."""
    known = tomllib.loads((files("adatp.paper") / "published.toml").read_text("utf-8"))
    wanted = (model.pretrained, plan.frames)
    found = [
        row for each in known["sets"] if (each["model"], each["frames"]) == wanted for row in each["rows"]
    ]
    if not found:
        return None
    named = {name for row in found for name in row.get("scores", {})}
    tasks = [task.name for task in plan.tasks if task.name in named]
    tasks += sorted(named - {task.name for task in plan.tasks})
    head = ["method", "tokens %", "FLOPs", *tasks, "average %", "source"]
    lines = [head, ["---", *["---:"] * (len(head) - 2), "---"]]
    for row in found:
        scores = [str(row.get("scores", {}).get(task, "-")) for task in tasks]
        facts = [row["method"], row.get("tokens", "-"), row.get("flops", "-")]
        lines.append([*facts, *scores, str(row["average"]), row["source"]])
    sources = {row["source"] for row in found}
    sources_named = "; ".join(f"{key}: {text}" for key, text in known["sources"].items() if key in sources)
    note = (
        "Compare a row only with the vanilla of its own source: an average is per cent of that. The FLOPs of "
        "sources follow different conventions."
    )
    return f"{_lines(lines)}\n\n{sources_named}. {note}"
