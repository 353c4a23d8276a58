"""Figures: results of an evaluation, attention bias, kept tokens. They need the extra ``adatp[plot]``."""

from adatp.plots.accuracy import plot_accuracy, plot_differences, plot_thirds
from adatp.plots.bias_figures import plot_bias
from adatp.plots.tokens import plot_tokens

__all__ = ["plot_accuracy", "plot_bias", "plot_differences", "plot_thirds", "plot_tokens"]
