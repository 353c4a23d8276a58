"""Attention-debiased visual token pruning for Video LLMs."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from adatp.budget import BudgetError
    from adatp.encoders import EncoderError
    from adatp.errors import AdaTPError
    from adatp.layout import VideoLayout
    from adatp.methods.adatp import AdaTP
    from adatp.models import UnsupportedModelError
    from adatp.pruner import Pruner, PruningError
    from adatp.report import Report
    from adatp.session import Answer, LoadError, Prompt, PromptError, Session

__all__ = [
    "AdaTP",
    "AdaTPError",
    "Answer",
    "BudgetError",
    "EncoderError",
    "LoadError",
    "Prompt",
    "PromptError",
    "Pruner",
    "PruningError",
    "Report",
    "Session",
    "UnsupportedModelError",
    "VideoLayout",
]

_HOMES = {
    "AdaTP": "methods.adatp",
    "AdaTPError": "errors",
    "Answer": "session",
    "BudgetError": "budget",
    "EncoderError": "encoders",
    "LoadError": "session",
    "Prompt": "session",
    "PromptError": "session",
    "Pruner": "pruner",
    "PruningError": "pruner",
    "Report": "report",
    "Session": "session",
    "UnsupportedModelError": "models",
    "VideoLayout": "layout",
}


def __getattr__(name: str) -> Any:
    # Torch and transformers take seconds to import: `adatp --help` should not.
    if name not in _HOMES:
        raise AttributeError(f"module 'adatp' has no attribute {name!r}")
    return getattr(import_module(f"adatp.{_HOMES[name]}"), name)
