"""Model families: one file per family, with everything that is specific to it.

Every module of this package is imported here, so a new file needs no other line. `adatp.models.shared` has
what several families share.
"""

from importlib import import_module
from pkgutil import iter_modules

import adatp.torchvision_guard  # noqa: F401  # before transformers

# isort: split
from adatp.models.family import EncoderMethod, Family, TowerCall, decoder_of
from adatp.models.general import REFUSED, GeneralRuleError, always_refused, q_former_error, reads_videos
from adatp.models.registry import (
    UnsupportedModelError,
    allow_general_rule,
    by_general_rule,
    family_of,
    later_version,
    register,
    supported,
)

for _module in iter_modules(__path__):
    import_module(f"{__name__}.{_module.name}")

__all__ = [
    "REFUSED",
    "EncoderMethod",
    "Family",
    "GeneralRuleError",
    "TowerCall",
    "UnsupportedModelError",
    "allow_general_rule",
    "always_refused",
    "by_general_rule",
    "decoder_of",
    "family_of",
    "later_version",
    "q_former_error",
    "reads_videos",
    "register",
    "supported",
]
