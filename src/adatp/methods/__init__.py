"""Pruning methods: one file a method, one frozen dataclass each, found by name in ``METHODS``."""

from adatp.methods.adatp import AdaTP
from adatp.methods.base import Method
from adatp.methods.vanilla import Vanilla

METHODS: dict[str, type[Method]] = {method.name: method for method in (AdaTP, Vanilla)}

__all__ = ["METHODS", "AdaTP", "Method", "Vanilla"]
