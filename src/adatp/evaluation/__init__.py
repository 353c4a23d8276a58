"""Evaluation: accuracy against FLOPs of many methods, on the same questions, resumable."""

from adatp.evaluation.disturbing import Disturbance
from adatp.evaluation.entrants import Entrant, ablations, disturbed, entrants, names
from adatp.evaluation.results import Results, ResultsError
from adatp.evaluation.runner import evaluate
from adatp.evaluation.settings import SettingsError, check_settings
from adatp.evaluation.summary import summarise
from adatp.evaluation.tuning import best, candidates, tunable
from adatp.evaluation.worlds import WORLDS, World, lacks_words, world_of

__all__ = [
    "WORLDS",
    "Disturbance",
    "Entrant",
    "Results",
    "ResultsError",
    "SettingsError",
    "World",
    "ablations",
    "best",
    "candidates",
    "check_settings",
    "disturbed",
    "entrants",
    "evaluate",
    "lacks_words",
    "names",
    "summarise",
    "tunable",
    "world_of",
]
