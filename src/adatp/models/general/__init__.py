"""The general rule: lays out unregistered model types by what transformers says of them."""

from adatp.models.general.offers import offered, reads_videos
from adatp.models.general.refused import REFUSED, always_refused
from adatp.models.general.rule import GeneralRule, GeneralRuleError, q_former_error

__all__ = [
    "REFUSED",
    "GeneralRule",
    "GeneralRuleError",
    "always_refused",
    "offered",
    "q_former_error",
    "reads_videos",
]
