"""The general rule: model types that nobody registered, laid out by what transformers itself says of them."""

from adatp.models.general.offers import offered, reads_videos
from adatp.models.general.rule import GeneralRule, GeneralRuleError

__all__ = ["GeneralRule", "GeneralRuleError", "offered", "reads_videos"]
