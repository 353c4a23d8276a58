"""Which methods have a FLOPs target. Asked here and nowhere else."""

from __future__ import annotations

from dataclasses import fields, replace
from typing import Any, cast

from adatp.methods.base import Method


def has_target(method: type[Method]) -> bool:
    """Whether the method can be made to spend a given fraction of vanilla's prefill FLOPs."""
    return "flops" in {field.name for field in fields(cast(Any, method))}


def with_target(method: type[Method], flops: float | None = None) -> Method:
    """The method on a target, or on its own default.

    Args:
        method: one that has a target.
        flops: fraction of vanilla's prefill FLOPs, in (0, 1]; None: the default.

    Raises:
        BudgetError: the method does not take such a target.
    """
    made = method() if flops is None else cast(Any, method)(flops=flops)
    return cast(Method, made)


def without_target(method: Method) -> Method:
    """The same method as it prunes nothing."""
    return cast(Method, replace(cast(Any, method), flops=1.0))
