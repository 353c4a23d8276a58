"""Watches a method that encodes videos, for models without a module whose hooks would do."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from types import MethodType
from typing import Any

from torch import nn

from adatp.uncopied import no_hook


class MethodWatch:
    """Replaces a method of one module until it is removed.

    Args:
        owner: the module.
        name: name of the method.
        before: called before each call with all arguments by name.
        after: called after each call with the module, no positional arguments, all arguments by name, the
            result.
    """

    def __init__(
        self,
        owner: nn.Module,
        name: str,
        before: Callable[[dict[str, Any]], None],
        after: Callable[[nn.Module, tuple[Any, ...], dict[str, Any], Any], None] = no_hook,
    ) -> None:
        self.owner, self.name = owner, name
        self.before, self.after = before, after
        self.__wrapped__ = getattr(owner, name)  # `inspect.signature` follows it
        setattr(self.owner, self.name, self)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Call the original method and both callbacks."""
        bound = inspect.signature(self.__wrapped__).bind_partial(*args, **kwargs)
        named = dict(bound.arguments)
        for name, parameter in bound.signature.parameters.items():
            if parameter.kind is parameter.VAR_KEYWORD:
                named.update(named.pop(name, {}))
        self.before(named)
        output = self.__wrapped__(*args, **kwargs)
        self.after(self.owner, (), named, output)
        return output

    def __deepcopy__(self, memo: Mapping[int, Any]) -> Any:
        """A copy of the module gets its own, original method."""
        twin = memo.get(id(self.owner), self.owner)
        return MethodType(getattr(type(twin), self.name), twin)

    def remove(self) -> None:
        """Give the module its own method back."""
        vars(self.owner).pop(self.name, None)


def anchor(output: Any) -> Any:
    """An object whose identity stands for an output: the output, or the first element of a list or tuple."""
    while isinstance(output, (list, tuple)) and output:
        output = output[0]
    return output
