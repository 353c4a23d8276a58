"""Attention-debiased visual token pruning for Video LLMs."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from adatp.budget import BudgetError
    from adatp.encoders import EncoderError
    from adatp.layout import VideoLayout
    from adatp.methods.adatp import AdaTP
    from adatp.models import UnsupportedModelError
    from adatp.pruning import Pruner, PruningError, Run
    from adatp.report import Report

__all__ = [
    "AdaTP",
    "BudgetError",
    "EncoderError",
    "Pruner",
    "PruningError",
    "Report",
    "Run",
    "UnsupportedModelError",
    "VideoLayout",
]

_HOMES = {
    "AdaTP": "methods.adatp",
    "BudgetError": "budget",
    "EncoderError": "encoders",
    "Pruner": "pruning",
    "PruningError": "pruning",
    "Report": "report",
    "Run": "pruning",
    "UnsupportedModelError": "models",
    "VideoLayout": "layout",
}


def __getattr__(name: str) -> Any:
    # Torch and transformers take seconds to import: `adatp --help` should not.
    if name not in _HOMES:
        raise AttributeError(f"module 'adatp' has no attribute {name!r}")
    return getattr(import_module(f"adatp.{_HOMES[name]}"), name)
