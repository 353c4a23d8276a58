"""Supports gradient checkpointing where a layer's hooks would run again with the layer.

Transformers 5.5 checkpoints the call of a layer, its hooks included. Later versions checkpoint its forward
alone. When the layer runs again for its gradients, the decoder call of the hooks is over.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from torch import nn

from adatp.uncopied import no_hook

Hook = Callable[[nn.Module, tuple[Any, ...], dict[str, Any]], Any]
_FUNCTION = "_gradient_checkpointing_func"


class HookOutside:
    """A pre-hook that runs once, outside the part of the layer that is checkpointed.

    Args:
        layer: a decoder layer.
        hook: the pre-hook, with keyword arguments.
    """

    def __init__(self, layer: nn.Module, hook: Hook) -> None:
        self.layer, self.hook = layer, hook
        self.checkpoint: Callable[..., Any] | None = getattr(layer, _FUNCTION, None)
        self.done = False

    def install(self) -> None:
        """Replace the layer's checkpointing function, if that function would run hooks."""
        if type(self.layer).__call__ is nn.Module.__call__:
            self.checkpoint = None
        if self.checkpoint is not None:
            setattr(self.layer, _FUNCTION, self.run)

    def remove(self) -> None:
        """Give the layer its own function back."""
        if self.checkpoint is not None:
            setattr(self.layer, _FUNCTION, self.checkpoint)

    def __deepcopy__(self, _: Any) -> HookOutside:
        """For a copy of the layer: the layer's own function, without the hook."""
        twin = HookOutside(self.layer, no_hook)
        twin.checkpoint = self.checkpoint
        return twin

    def __call__(self, layer: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Return the arguments as the hook changes them, unless the hook has run already."""
        return None if self.done else self.hook(layer, args, kwargs)

    def run(self, call: Any, *args: Any) -> Any:
        """Checkpoint ``call``, a partial that holds the layer's keyword arguments."""
        assert self.checkpoint is not None
        args, kwargs = self.hook(self.layer, args, call.keywords) or (args, call.keywords)
        return self.checkpoint(partial(self._call_without_hook, call.func, kwargs), *args)

    def _call_without_hook(self, call: Callable[..., Any], kwargs: dict[str, Any], *args: Any) -> Any:
        self.done = True
        try:
            return call(*args, **kwargs)
        finally:
            self.done = False
