"""Evaluation: accuracy against FLOPs of many methods, on the same questions, resumable."""

from adatp.evaluation.entrants import Entrant, ablations, entrants, names
from adatp.evaluation.results import Results, ResultsError
from adatp.evaluation.runner import evaluate
from adatp.evaluation.summary import summarise

__all__ = [
    "Entrant",
    "Results",
    "ResultsError",
    "ablations",
    "entrants",
    "evaluate",
    "names",
    "summarise",
]
