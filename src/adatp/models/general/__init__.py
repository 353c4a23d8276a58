"""The general rule: lays out unregistered model types by what transformers says of them."""

from adatp.models.general.offers import offered, reads_videos
from adatp.models.general.rule import GeneralRule

__all__ = ["GeneralRule", "offered", "reads_videos"]
