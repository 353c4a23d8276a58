"""Hooks that stay with the module they were put on."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any


class Uncopied:
    """A hook that does nothing on copies of its module, where nobody would remove it."""

    def __init__(self, hook: Callable[..., Any]) -> None:
        self.hook = hook

    def __call__(self, *args: Any) -> Any:
        """Call the hook and return its result."""
        return self.hook(*args)

    def __reduce__(self) -> tuple[Any, ...]:
        return Uncopied, (no_hook,)


def no_hook(*_: Any) -> None:
    """The hook of a copy, which changes nothing."""
