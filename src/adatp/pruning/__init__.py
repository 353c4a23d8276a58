"""The context in which one model prunes: admission, the vision tower, planning, accounting."""

from adatp.errors import PruningError
from adatp.pruning.admission import check_config
from adatp.pruning.pruner import Pruner
from adatp.pruning.run import Run

__all__ = ["Pruner", "PruningError", "Run", "check_config"]
