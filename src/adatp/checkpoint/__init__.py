"""Checks a checkpoint's files before anything is built from them: a stranger may have written them."""

from adatp.checkpoint.errors import CheckpointError
from adatp.checkpoint.files import check_files
from adatp.checkpoint.numbers import check_config, check_generation, check_numbers, check_processor
from adatp.checkpoint.trial import try_out
from adatp.checkpoint.weights import check_weights

__all__ = [
    "CheckpointError",
    "check_config",
    "check_files",
    "check_generation",
    "check_numbers",
    "check_processor",
    "check_weights",
    "try_out",
]
