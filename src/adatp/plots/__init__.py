"""Figures: results of an evaluation, attention bias, kept tokens. They need the extra ``adatp[plot]``."""

from adatp.plots.accuracy import plot_accuracy, plot_differences, plot_thirds

__all__ = ["plot_accuracy", "plot_differences", "plot_thirds"]
