"""Tunes each method's own parameters, one at a time, on a split that no table uses."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields
from statistics import fmean
from typing import Any

from adatp.evaluation.entrants import Entrant
from adatp.methods import METHODS


def tunable() -> list[str]:
    """Names of the methods that have something to tune."""
    return [name for name, kind in METHODS.items() if kind.tunable]


def candidates(name: str, targets: Sequence[float]) -> list[Entrant]:
    """A method with its defaults, then with one parameter at a time set to another value worth trying.

    Args:
        name: name of the method.
        targets: FLOPs as fractions of vanilla; each is tried.

    Returns:
        Entrants whose label gives the change, each compared with vanilla.
    """
    kind = METHODS[name]
    tried: list[tuple[str, dict[str, Any]]] = [(name, {})]
    for parameter, values in kind.tunable.items():
        for value in values:
            if value != getattr(kind, parameter):
                tried.append((f"{name} {parameter}={value}", {parameter: value}))
    return [
        Entrant(label, kind(flops=target, **changed))
        for target in dict.fromkeys(targets)
        for label, changed in tried
    ]


def best(
    name: str, rows: Sequence[Mapping[str, Any]], facts: Mapping[str, Mapping[str, Any]]
) -> dict[str, Any]:
    """The candidate of a method that is right most often, over all lengths and targets.

    Args:
        name: name of the method.
        rows: rows of `adatp.evaluation.summarise`.
        facts: label of an entrant -> its settings.

    Returns:
        ``settings``: the parameters that differ from the defaults, empty if nothing is better than these.
        ``accuracy`` of the winner and ``default_accuracy``: means over all rows. ``tried``: label ->
            accuracy.
        ``cells``: length and target -> accuracy of the winner. A candidate only counts if it has a row
            wherever any has one.
    """
    kind = METHODS[name]
    defaults = {each.name: each.default for each in fields(kind)}
    cells: dict[str, dict[tuple[int, Any], float]] = {}
    for row in rows:
        if row["method"] == name:
            label = row.get("variant", name)
            cells.setdefault(label, {})[row["frames"], row["flops_target"]] = row["accuracy"]
    most = max(map(len, cells.values()), default=0)
    means = {label: fmean(found.values()) for label, found in cells.items() if len(found) == most}
    if not means:
        return {"settings": {}, "accuracy": None, "default_accuracy": None, "tried": {}, "cells": {}}
    winner = max(means, key=lambda label: (means[label], label == name))
    changed = {
        parameter: value
        for parameter, value in facts[winner].items()
        if parameter in kind.tunable and value != defaults[parameter]
    }
    return {
        "settings": changed,
        "accuracy": means[winner],
        "default_accuracy": means.get(name),
        "tried": means,
        "cells": {f"{frames} frames, {target:g}": right for (frames, target), right in cells[winner].items()},
    }
