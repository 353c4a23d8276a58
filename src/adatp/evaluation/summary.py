"""Turns answers into a table: one row per entrant and number of frames."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from statistics import fmean
from typing import Any

from adatp.evaluation.results import Results
from adatp.evaluation.statistics import bootstrap_interval, mcnemar_p
from adatp.evaluation.worlds import THIRDS


def summarise(results: Results) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Summarise all runs in a work file.

    Args:
        results: with the settings pinned by ``evaluate``.

    Returns:
        Two lists. The first has a row for each entrant and number of frames that answered every question (see
        `summarise_run`). The second has those that did not, each with a ``reason``. Both are sorted by
        frames, then in the order of the first run.
    """
    rows, skipped = [], []
    limit = results.pins.get("limit")
    runs = {name.removeprefix("run "): facts for name, facts in results.pins.items() if name[:4] == "run "}
    for frames in sorted(results.questions):
        for run, facts in runs.items():
            answers = results.answers.get((run, frames), {})
            named = {"method": _method(facts), "frames": frames, "flops_target": facts["flops_target"]}
            under = facts.get("disturbance")
            compared = facts["reference"].removesuffix(f" under {under}")
            if compared != "vanilla" or facts["label"] != named["method"]:
                named = {"variant": facts["label"], **named}
            if under is not None:
                named["disturbance"] = under
            if (run, frames) in results.skips:
                skipped.append({**named, "reason": results.skips[run, frames]})
            elif 0 < len(answers) != limit:
                skipped.append({**named, "reason": f"only {len(answers)} of {limit} questions asked so far"})
            elif answers:
                compared = facts["reference"] if facts["reference"] != run else ""
                reference = results.answers.get((compared, frames), {})
                row = summarise_run(answers, results.questions[frames], reference)
                rows.append({**named, "split": results.pins["split"], **row})
    return rows, skipped


def summarise_run(
    answers: Mapping[int, Mapping[str, Any]],
    questions: Mapping[int, Mapping[str, Any]],
    reference: Mapping[int, Mapping[str, Any]],
) -> dict[str, Any]:
    """Summarise one run as a row.

    Args:
        answers: lines of the work file by question number.
        questions: the same for the questions.
        reference: the same for the answers to compare with, if any; missing ones are not compared.

    Returns:
        A dictionary with:

        - ``n``, and ``accuracy`` with its 95 % bootstrap interval ``ci_low``, ``ci_high``;
        - ``flops_ratio``: the mean real FLOPs of the decoder's prefill over vanilla's;
        - ``visual_mean`` and ``visual_last``: the visual tokens of the mean and of the last layer;
        - paired with the reference: ``delta`` of the accuracy with its interval ``delta_low``,
          ``delta_high``, ``changed``, the fraction of answers that differ, and the exact McNemar ``p_value``;
        - ``by_type`` and ``by_third``: accuracies by question type, and by the third of the clip that holds
          all evidence of a question.
    """
    right = {number: answer["word"] == questions[number]["answer"] for number, answer in answers.items()}
    row: dict[str, Any] = {
        **_accuracy(list(right.values())),
        **{
            key: fmean(answer[key] for answer in answers.values())
            for key in ("flops_ratio", "visual_mean", "visual_last")
        },
        **dict.fromkeys(("delta", "delta_low", "delta_high", "changed", "p_value")),
    }
    if paired := sorted(right.keys() & reference.keys()):
        before = [reference[number]["word"] == questions[number]["answer"] for number in paired]
        gained = [int(right[number]) - was for number, was in zip(paired, before, strict=True)]
        row["delta"] = fmean(gained)
        row["delta_low"], row["delta_high"] = bootstrap_interval(gained)
        row["changed"] = fmean(answers[n]["word"] != reference[n]["word"] for n in paired)
        row["p_value"] = mcnemar_p(gained.count(1), gained.count(-1))
    groups: dict[str, dict[str, list[bool]]] = {"by_type": defaultdict(list), "by_third": defaultdict(list)}
    for number in sorted(right):
        groups["by_type"][questions[number]["kind"]].append(right[number])
        if (third := questions[number]["third"]) is not None:
            groups["by_third"][third].append(right[number])
    groups["by_third"] = {third: groups["by_third"][third] for third in THIRDS if third in groups["by_third"]}
    return row | {by: {name: _accuracy(hits) for name, hits in group.items()} for by, group in groups.items()}


def _accuracy(right: list[bool]) -> dict[str, Any]:
    low, high = bootstrap_interval(right)
    return {"n": len(right), "accuracy": fmean(right), "ci_low": low, "ci_high": high}


def _method(facts: Mapping[str, Any]) -> str:
    """A method's name; the view's name if the view is not the clip."""
    return str(facts["method"] if facts["view"] == "video" else facts["view"])
