"""Reads ``--model_args``: the checkpoint, the method with its settings, and options of the prompts."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any

from adatp.errors import RefusedError
from adatp.methods import NAMES, Method, make_method, method_class

PROMPTS = ("auto", "own", "adatp")
"""Who writes the prompts: lmms-eval's own model of the family, or `Session.prepare`."""


@dataclass(frozen=True)
class Arguments:
    """The arguments of the model ``adatp``.

    Attributes:
        pretrained: a folder, an id on the hub, or "embedded" for the model that ships with adatp.
        method: how the model is pruned.
        frames: how many are sampled of a video.
        batch_size: documents that are answered together.
        device: a torch device, or "auto".
        dtype: name of a dtype, or "auto": as the checkpoint is.
        attention: the attention implementation of transformers; None: its default.
        trust_remote_code: whether the checkpoint's code may run.
        reuse_frames: see `Method.__call__`.
        prompts: one of `PROMPTS`; "auto": lmms-eval's own where it has a model of the family.
        own: arguments of lmms-eval's own model, such as ``max_pixels`` or ``system_prompt``.
    """

    pretrained: str
    method: Method
    frames: int = 32
    batch_size: int = 1
    device: str = "auto"
    dtype: str = "auto"
    attention: str | None = None
    trust_remote_code: bool = False
    reuse_frames: float | None = None
    prompts: str = "auto"
    own: Mapping[str, Any] = field(default_factory=dict)

    @property
    def source(self) -> str | None:
        """The source for `Session` to load."""
        return None if self.pretrained == "embedded" else self.pretrained


def read_arguments(given: Mapping[str, Any]) -> Arguments:
    """Read the arguments as lmms-eval hands them over.

    Args:
        given: name -> number, truth value or text.

    Raises:
        RefusedError: a name or a value is not known, or is missing. What neither adatp nor the method knows
            is kept for lmms-eval's own model, which `check_own` compares with what that takes.
        BudgetError: the method does not take this FLOPs target.
    """
    rest = {name: value for name, value in given.items() if value is not None}
    rest.pop("max_batch_size", None)
    if "pretrained" not in rest:
        raise RefusedError("pretrained= is missing: the model's folder or its id on the hub, or embedded")
    method = _method(rest)
    attention = rest.pop("attn_implementation", None)
    known: dict[str, Any] = {"attention": attention}
    for name in ("pretrained", "device", "dtype", "prompts"):
        if name in rest:
            known[name] = str(rest.pop(name))
    for name in ("frames", "batch_size"):
        if name in rest:
            known[name] = _count(name, rest.pop(name))
    for name in ("trust_remote_code", "reuse_frames"):
        if name in rest:
            known[name] = rest.pop(name)
    if known.get("prompts", "auto") not in PROMPTS:
        raise RefusedError(f"prompts= is one of {', '.join(PROMPTS)}, not {known['prompts']!r}")
    return Arguments(method=method, own=rest, **known)


def _method(rest: dict[str, Any]) -> Method:
    """Take the method and its settings out of the arguments."""
    name = str(rest.pop("method", "adatp"))
    if name not in NAMES:
        raise RefusedError(f"no method {name!r}; there are {', '.join(NAMES)}")
    kind = method_class(name)
    settings = {each.name: rest.pop(each.name) for each in fields(kind) if each.name in rest}
    if kind.flops is None and settings.pop("flops", None) is not None:
        raise RefusedError(f"method {name!r} has no FLOPs target: leave flops= out")
    return make_method(name, **settings)


def _count(name: str, value: Any) -> int:
    try:
        count = int(value)
    except (TypeError, ValueError):
        count = 0
    if count < 1 or count != float(value):
        raise RefusedError(f"{name}= is a number of 1 or more, not {value!r}")
    return count


def check_own(arguments: Arguments, taker: type | None) -> None:
    """Refuse arguments that nobody knows.

    Args:
        arguments: as `read_arguments` gives them.
        taker: lmms-eval's own model, or None where adatp writes the prompts.

    Raises:
        RefusedError: there are some.
    """
    known = set() if taker is None else own_parameters(taker)
    if unknown := sorted(arguments.own.keys() - known):
        of = f"adatp, the method {arguments.method.name}"
        of += "" if taker is None else f" or lmms-eval's {taker.__name__}"
        raise RefusedError(f"no argument {unknown[0]}= of {of}")


def own_parameters(taker: type) -> set[str]:
    """The names of the arguments of lmms-eval's own model, including those that it passes on to its bases."""
    known: set[str] = set()
    for kind in taker.__mro__:
        if "__init__" not in vars(kind):
            continue
        found = list(inspect.signature(vars(kind)["__init__"]).parameters.values())[1:]
        known |= {each.name for each in found if each.kind is not inspect.Parameter.VAR_KEYWORD}
        if all(each.kind is not inspect.Parameter.VAR_KEYWORD for each in found):
            break
    return known
