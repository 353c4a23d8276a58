"""Reads a plan file, and lists the runs that it describes."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from importlib.resources import files
from pathlib import Path
from typing import Any, TypeVar

from adatp.errors import RefusedError, first_line
from adatp.methods import NAMES, method_class
from adatp.small_files import SmallFileError, read_small

VANILLA = "vanilla"

Part = TypeVar("Part")


@dataclass(frozen=True)
class Model:
    """A model of the table.

    Attributes:
        name: its name in tables and in the names of folders.
        pretrained: a folder, an id on the hub, or "embedded".
        seconds: estimated seconds that vanilla needs for a document.
        arguments: further ``--model_args`` of lmms-eval.
    """

    name: str
    pretrained: str
    seconds: float = 1.5
    arguments: Mapping[str, Any] = field(default_factory=dict, hash=False)


@dataclass(frozen=True)
class Task:
    """A task of lmms-eval.

    Attributes:
        name: name of the task, or of a group of tasks.
        metric: the figure of its results for the table.
        documents: number of its documents, to estimate how long a run takes.
        part: the table that it belongs to.
    """

    name: str
    metric: str
    documents: int = 1000
    part: str = "multiple choice"


@dataclass(frozen=True)
class Plan:
    """All runs of a comparison.

    Attributes:
        models: the models.
        tasks: the tasks.
        frames: frames sampled from every video.
        budgets: real FLOPs of the decoder's prefill, as fractions of vanilla's.
        methods: names of methods and variants; vanilla is always run.
        batch_size: documents answered together.
        limit: documents of each task; None: all.
        launch: the command that starts lmms-eval; a first word "python" is this Python.
        include_path: a folder with further tasks.
    """

    models: tuple[Model, ...]
    tasks: tuple[Task, ...]
    frames: int = 32
    budgets: tuple[float, ...] = (0.273, 0.15, 0.10)
    methods: tuple[str, ...] = ("adatp",)
    batch_size: int = 1
    limit: int | None = None
    launch: tuple[str, ...] = ("python", "-m", "lmms_eval")
    include_path: str | None = None

    def runs(self) -> list[Run]:
        """Every run, vanilla first: model by model, task by task."""
        found = []
        for model in self.models:
            for task in self.tasks:
                found.append(Run(self, model, task, VANILLA, None))
                for budget in self.budgets:
                    found += [
                        Run(self, model, task, name, budget)
                        for name in self.methods
                        if method_class(name).flops is not None
                    ]
                found += [
                    Run(self, model, task, name, None)
                    for name in self.methods
                    if method_class(name).flops is None and name != VANILLA
                ]
        return list(dict.fromkeys(found))  # what the file names twice is run once


@dataclass(frozen=True)
class Run:
    """One model with one method on one task.

    Attributes:
        plan: the plan of the run.
        model: the model.
        task: the task.
        method: name of the method.
        budget: its FLOPs target; None: it has none.
    """

    plan: Plan
    model: Model
    task: Task
    method: str
    budget: float | None

    @property
    def label(self) -> str:
        """The method with its budget."""
        return self.method if self.budget is None else f"{self.method}@{self.budget:g}"

    @property
    def folder(self) -> Path:
        """The folder of its results, inside the folder of all results."""
        return Path(_file_name(self.model.name), _file_name(self.task.name), self.label)

    @property
    def model_args(self) -> str:
        """The value of lmms-eval's ``--model_args``."""
        facts: dict[str, Any] = {"pretrained": self.model.pretrained, "method": self.method}
        facts |= {} if self.budget is None else {"flops": self.budget}
        facts |= {"frames": self.plan.frames, **self.model.arguments}
        return ",".join(f"{name}={value}" for name, value in facts.items())

    def facts(self) -> dict[str, Any]:
        """All that distinguishes its results from those of other runs."""
        return {
            "model_args": self.model_args,
            "task": self.task.name,
            "metric": self.task.metric,
            "batch_size": self.plan.batch_size,
            "limit": self.plan.limit,
        }


def _file_name(name: str) -> str:
    return re.sub(r"[^\w.@-]+", "_", name)


def read_plan(path: Path | None) -> Plan:
    """Read a file like ``paper.toml``, which is the default.

    Raises:
        RefusedError: it can't be read, or contains something impossible.
    """
    name = "the default plan" if path is None else str(path)
    try:
        text = (files("adatp.paper") / "paper.toml").read_bytes() if path is None else read_small(path)
        given = tomllib.loads(text.decode())
    except SmallFileError as error:
        raise RefusedError(f"{name}: can't be read ({error})") from None
    except UnicodeDecodeError:
        raise RefusedError(f"{name}: can't be read (no text)") from None
    except (ValueError, RecursionError) as error:
        raise RefusedError(f"{name}: no TOML ({first_line(error)})") from None
    models = [_part(name, "models", each, Model) for each in _list(name, given.pop("models", None), "models")]
    tasks = [_part(name, "tasks", each, Task) for each in _list(name, given.pop("tasks", None), "tasks")]
    for key in ("budgets", "methods", "launch"):
        if key in given:
            given[key] = tuple(_list(name, given[key], key))
    plan = _part(name, "the file", {**given, "models": tuple(models), "tasks": tuple(tasks)}, Plan)
    _check(name, plan)
    return plan


def _list(name: str, value: Any, key: str) -> list[Any]:
    if not isinstance(value, list) or not value:
        raise RefusedError(f"{name}: {key} is a list, and not empty")
    return value


def _part(name: str, where: str, given: Any, kind: type[Part]) -> Part:
    """Make a dataclass from a part of the file. All of its fields have to be there, and no others."""
    if not isinstance(given, dict):
        raise RefusedError(f"{name}: {where}: a table is expected, not {given!r}")
    known = {each.name for each in fields(kind)}  # type: ignore[arg-type]
    if unknown := sorted(given.keys() - known):
        raise RefusedError(
            f"{name}: {where}: no setting {unknown[0]!r}; there are {', '.join(sorted(known))}"
        )
    try:
        return kind(**given)
    except TypeError:
        raise RefusedError(f"{name}: {where}: a setting is missing in {given}") from None


def _check(name: str, plan: Plan) -> None:
    """Refuse values of the wrong kind."""
    _check_parts(name, plan)
    for key, least in (("frames", 1), ("batch_size", 1), ("limit", 1)):
        value = getattr(plan, key)
        if value is not None and (not isinstance(value, int) or isinstance(value, bool) or value < least):
            raise RefusedError(f"{name}: {key} is a whole number of {least} or more, not {value!r}")
    budgets: tuple[Any, ...] = plan.budgets
    for budget in budgets:
        if not isinstance(budget, int | float) or isinstance(budget, bool) or not 0 < budget <= 1:
            raise RefusedError(f"{name}: budgets are fractions of vanilla, in (0, 1], not {budget!r}")
    if unknown := [method for method in plan.methods if method not in NAMES]:
        raise RefusedError(f"{name}: no method {unknown[0]!r}; there are {', '.join(NAMES)}")
    if not all(isinstance(word, str) for word in plan.launch):
        raise RefusedError(f"{name}: launch is a list of words")
    if not isinstance(plan.include_path, str | None):
        raise RefusedError(f"{name}: include_path is a folder, not {plan.include_path!r}")
    for model in plan.models:
        values = [model.name, model.pretrained, *model.arguments.values()]
        if any("," in str(value) for value in values):
            raise RefusedError(f"{name}: model {model.name!r}: lmms-eval splits values at commas: use none")
        own = [key for key in ("pretrained", "method", "flops", "frames") if key in model.arguments]
        if own:
            raise RefusedError(f"{name}: model {model.name!r}: {own[0]} is no argument: the plan has its own")
    for kind, names in (
        ("models", [each.name for each in plan.models]),
        ("tasks", [t.name for t in plan.tasks]),
        ("budgets", [f"{budget:g}" for budget in plan.budgets]),  # of a run's folder
    ):
        if len(set(map(_file_name, names))) < len(names):
            raise RefusedError(f"{name}: two {kind} have the same name")


def _check_parts(name: str, plan: Plan) -> None:
    """Refuse models and tasks with values of the wrong kind."""
    parts: list[Model | Task] = [*plan.models, *plan.tasks]
    for part in parts:
        what = f"{name}: {type(part).__name__.lower()} {part.name!r}"
        for each in fields(part):
            value = getattr(part, each.name)
            if each.type == "str" and not (isinstance(value, str) and value):
                raise RefusedError(f"{what}: {each.name} is a text, not {value!r}")
            number = isinstance(value, int | float) and not isinstance(value, bool) and value > 0
            if each.type in ("int", "float") and not number:
                raise RefusedError(f"{what}: {each.name} is a number above 0, not {value!r}")
            if each.name == "arguments" and not isinstance(value, dict):
                raise RefusedError(f"{what}: arguments is a table, not {value!r}")
