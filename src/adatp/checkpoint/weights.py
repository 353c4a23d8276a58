"""Checks weights: no pickles, and no model that is larger than the file it is loaded from."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from adatp.checkpoint.errors import CheckpointError
from adatp.errors import first_line, is_out_of_memory

LARGER = 4
"""How many times more numbers a model may have than its file: some weights are stored once and used twice."""

PACKED = 16
"""The same limit for a quantized file, which packs several numbers into one."""

PICKLED = (".bin", ".pt", ".pth", ".ckpt")


def check_weights(folder: Path, config: Any, build: Callable[[], Any]) -> None:
    """Refuse pickled weights, and a config that makes a model larger than its weights.

    Args:
        folder: folder of a checkpoint.
        config: the model's config.
        build: makes the model; called where tensors take no memory.

    Raises:
        CheckpointError: there are only pickled weights, their file is broken, or the model is larger.
    """
    files = sorted(folder.glob("*.safetensors"))
    if not files:
        pickled = [path.name for path in sorted(folder.iterdir()) if path.suffix in PICKLED]
        if pickled:
            raise CheckpointError(
                f"its weights are pickled ({pickled[0]}), and unpickling can run code: convert them once, "
                "where you trust them, by model.save_pretrained(FOLDER), which writes safetensors; "
                "--trust-remote-code loads them as they are"
            )
        raise CheckpointError("the weights can't be loaded (there is no file model.safetensors)")
    stored = sum(map(_numbers_in, files))
    try:
        with torch.device("meta"):
            needed = sum(parameter.numel() for parameter in build().parameters())
    except Exception as error:  # each family's modules raise their own
        if is_out_of_memory(error):
            raise
        raise CheckpointError(
            f"the config is broken: no model can be made of it ({first_line(error)})"
        ) from error
    quantized = getattr(config, "quantization_config", None) is not None
    if needed > stored * LARGER * (PACKED if quantized else 1):
        raise CheckpointError(
            f"the config makes a model of {needed} weights, but the checkpoint lacks most of them: "
            f"it holds {stored}"
        )


def _numbers_in(path: Path) -> int:
    """How many numbers a safetensors file declares."""
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            if not 2 <= length <= size - 8:
                raise ValueError("it is cut short")
            header = json.loads(file.read(length))
        shapes = [entry["shape"] for name, entry in header.items() if name != "__metadata__"]
        return sum(math.prod(shape) for shape in shapes)
    except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise CheckpointError(f"the weights can't be loaded ({path.name}: {first_line(error)})") from error
