"""Attention-debiased visual token pruning for Video LLMs."""

from adatp.layout import VideoLayout
from adatp.methods.adatp import AdaTP
from adatp.report import Report

__all__ = ["AdaTP", "Report", "VideoLayout"]
