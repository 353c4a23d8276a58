"""Attention-debiased visual token pruning for Video LLMs."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

# Torch and transformers take seconds to import, so `import adatp` imports neither: a public name is imported
# when it is first used. A new name goes into two lists: this one, for type checkers, and `_HOMES`. A test
# compares them.
if TYPE_CHECKING:
    from adatp.budget import BudgetError as BudgetError
    from adatp.encoders import EncoderError as EncoderError
    from adatp.errors import AdaTPError as AdaTPError
    from adatp.errors import PruningError as PruningError
    from adatp.errors import SettingError as SettingError
    from adatp.layout import VideoLayout as VideoLayout
    from adatp.methods.adatp import AdaTP as AdaTP
    from adatp.models import UnsupportedModelError as UnsupportedModelError
    from adatp.pruning import Pruner as Pruner
    from adatp.pruning import Run as Run
    from adatp.report import Report as Report
    from adatp.session import Answer as Answer
    from adatp.session import LoadError as LoadError
    from adatp.session import Prompt as Prompt
    from adatp.session import PromptError as PromptError
    from adatp.session import Session as Session

_HOMES = {
    "AdaTP": "adatp.methods.adatp",
    "AdaTPError": "adatp.errors",
    "Answer": "adatp.session",
    "BudgetError": "adatp.budget",
    "EncoderError": "adatp.encoders",
    "LoadError": "adatp.session",
    "Prompt": "adatp.session",
    "PromptError": "adatp.session",
    "Pruner": "adatp.pruning",
    "PruningError": "adatp.errors",
    "Report": "adatp.report",
    "Run": "adatp.pruning",
    "Session": "adatp.session",
    "SettingError": "adatp.errors",
    "UnsupportedModelError": "adatp.models",
    "VideoLayout": "adatp.layout",
}

__all__ = list(_HOMES)


if not TYPE_CHECKING:  # otherwise type checkers would accept any name

    def __getattr__(name: str) -> Any:
        if name not in _HOMES:
            raise AttributeError(f"module 'adatp' has no attribute {name!r}")
        return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted(_HOMES)
