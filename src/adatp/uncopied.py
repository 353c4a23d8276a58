"""Hooks that stay with the module they were put on."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any


class Uncopied:
    """A hook that does nothing on copies of its module, where nobody would take it away."""

    def __init__(self, hook: Callable[..., Any]) -> None:
        self.hook = hook

    def __call__(self, *args: Any) -> Any:
        """What the hook returns."""
        return self.hook(*args)

    def __reduce__(self) -> tuple[Any, ...]:
        return Uncopied, (no_hook,)


def no_hook(*_: Any) -> None:
    """Changes nothing."""
