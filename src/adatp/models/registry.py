"""Registers supported model types and their families: the package's own families and those of its users."""

from __future__ import annotations

import threading
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import EntryPoint, entry_points
from typing import TypeVar

import transformers

from adatp.errors import PruningError
from adatp.models.family import Family
from adatp.models.general import GeneralRule, offered

ENTRY_POINTS = "adatp.families"
"""The group of entry points through which an installed package adds families. Each names a module to
import.
"""

_FamilyClass = TypeVar("_FamilyClass", bound=type[Family])


class UnsupportedModelError(PruningError, ValueError):
    """No family is registered for this model, or its family needs a later transformers."""


@dataclass(frozen=True)
class _Entry:
    family: Family
    checkpoint: str | None
    since: tuple[int, int]


_entries: dict[str, _Entry] = {}
_by_rule: set[str] = set()
_unread_entry_points = True
_reading = threading.RLock()  # a server may look up the first model in several threads


def register(
    model_type: str, *, checkpoint: str | None = None, since: tuple[int, int] = (0, 0)
) -> Callable[[_FamilyClass], _FamilyClass]:
    """Class decorator: the library prunes models of this type according to the decorated family.

    The class may be in this package, in a script, or in an installed package that names its module as an
    entry point of the group ``adatp.families``. If the type is registered already, for example by this
    package, the new class replaces the old one. A family of several types has one decorator for each.

    Args:
        model_type: the ``model_type`` of the models' config.
        checkpoint: a model on the Hugging Face hub, as an example in ``adatp models``.
        since: the first version of transformers whose code of these models the family fits.

    Raises:
        TypeError: the class is no `Family`, or lacks one of its methods.

    Example:
        >>> @register("qwen2_vl", checkpoint="Qwen/Qwen2-VL-7B-Instruct")
        ... class Qwen2VL(PatchGrid): ...
    """

    def decorate(cls: _FamilyClass) -> _FamilyClass:
        if not issubclass(cls, Family):
            raise TypeError(f"{cls.__name__} is registered for {model_type!r}, but is no adatp.models.Family")
        _entries[model_type] = _Entry(cls(), checkpoint, since)
        return cls

    return decorate


def family_of(model_type: str) -> Family:
    """The family of the models whose config has this ``model_type``.

    For an omni model it is the family of its thinker. For an unregistered type it is the general rule, if the
    type reads videos in transformers.

    Raises:
        UnsupportedModelError: no family is registered for it, and the general rule can't be tried; or this
            transformers is too old for the family.
    """
    if model_type not in _entries:
        _read_entry_points()
    model_type = _writing_part(model_type)
    if model_type not in _entries:
        if model_type in _by_rule or model_type in offered():
            return GeneralRule()
        raise UnsupportedModelError(
            f"model type {model_type!r} is not supported; supported: {', '.join(sorted(_entries))} "
            "(`adatp models` tells more, CONTRIBUTING.md how to add one)"
        )
    if least := later_version(model_type):
        raise UnsupportedModelError(
            f"model type {model_type!r} needs transformers {least} or newer, "
            f"this is {transformers.__version__}"
        )
    return _entries[model_type].family


def later_version(model_type: str) -> str | None:
    """The transformers that a registered type needs, where the installed one is older, else None."""
    since = _entries[model_type].since
    installed = tuple(map(int, transformers.__version__.split(".")[:2]))
    return ".".join(map(str, since)) if installed < since else None


def supported() -> dict[str, str | None]:
    """All supported model types in alphabetical order, each with an example checkpoint or None."""
    _read_entry_points()
    return {model_type: entry.checkpoint for model_type, entry in sorted(_entries.items())}


def by_general_rule() -> list[str]:
    """Model types of the installed transformers that read videos and are not registered, in order.

    Some of them can't be pruned (see `REFUSED`). Omni models are left out whose thinker is registered.
    """
    _read_entry_points()
    return [model_type for model_type in offered() if _writing_part(model_type) not in _entries]


def _writing_part(model_type: str) -> str:
    """The type of the part that reads and writes text: an omni model's thinker, if it is registered."""
    thinker = f"{model_type}_thinker"
    return thinker if model_type not in _entries and thinker in _entries else model_type


def allow_general_rule(model_type: str) -> None:
    """Try the general rule on a type whose code is not in transformers but comes with a checkpoint."""
    _by_rule.add(model_type)


def _read_entry_points() -> None:
    """Import the families of installed packages, once. They replace nothing that is registered already."""
    global _unread_entry_points
    with _reading:
        if not _unread_entry_points:
            return
        _unread_entry_points = False
        before = dict(_entries)
        for entry_point in entry_points(group=ENTRY_POINTS):
            try:
                entry_point.load()
            except Exception as error:  # whatever their code raises, other models stay supported
                _warn_of(entry_point, error)
        _entries.update(before)


def _warn_of(entry_point: EntryPoint, error: Exception) -> None:
    package = entry_point.dist.name if entry_point.dist is not None else "an unknown package"
    reason = " ".join(str(error).split())
    warnings.warn(
        f"the entry point {entry_point.name!r} ({entry_point.value}) of {package} in the group "
        f"{ENTRY_POINTS!r} can't be loaded, so its model families are missing: "
        f"{type(error).__name__}: {reason}",
        stacklevel=4,
    )
