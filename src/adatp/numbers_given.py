"""Tells numbers from what only looks like one, whoever made them: Python, numpy or a fraction."""

from __future__ import annotations

from numbers import Integral, Real


def is_number(value: object) -> bool:
    """Whether a value is a real number. True and False are none here."""
    return isinstance(value, Real) and not isinstance(value, bool)


def is_integer(value: object) -> bool:
    """Whether a value is a whole number. True and False are none here."""
    return isinstance(value, Integral) and not isinstance(value, bool)
