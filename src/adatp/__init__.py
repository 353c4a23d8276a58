"""Attention-debiased visual token pruning for Video LLMs."""

from adatp.budget import BudgetError
from adatp.encoders import EncoderError
from adatp.layout import VideoLayout
from adatp.methods.adatp import AdaTP
from adatp.models import UnsupportedModelError
from adatp.pruner import Pruner, PruningError
from adatp.report import Report

__all__ = [
    "AdaTP",
    "BudgetError",
    "EncoderError",
    "Pruner",
    "PruningError",
    "Report",
    "UnsupportedModelError",
    "VideoLayout",
]
