"""The general rule: lays out unregistered model types by what transformers says of them."""

from adatp.models.general.offers import offered, reads_videos
from adatp.models.general.rule import GeneralRule, GeneralRuleError

__all__ = ["GeneralRule", "GeneralRuleError", "offered", "reads_videos"]
