"""Checks the files in a checkpoint's folder: regular, of bounded size, no tokenizer that lets texts grow."""

from __future__ import annotations

import json
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from adatp.checkpoint.errors import CheckpointError

MOST_BYTES = 64 << 20
"""Size of the largest file that is read as text. Files of tokenizers with 250,000 words have about 35 MB."""

TEXTS = (".json", ".jinja", ".txt", ".model")
"""Endings of files that are read completely."""

SETTINGS = (
    "config.json",
    "generation_config.json",
    "preprocessor_config.json",
    "processor_config.json",
    "tokenizer_config.json",
    "video_preprocessor_config.json",
)
"""Files that must hold an object with settings, if they exist."""

MOST_GROWTH = 256
"""How many times longer a tokenizer's normalizer may make a text."""

MOST_PADDING = 1 << 17
"""Tokens that a tokenizer may pad a text to."""


def check_files(folder: Path) -> None:
    """Refuse a folder in which reading a file would never end or would take all memory.

    Args:
        folder: folder of a checkpoint.

    Raises:
        CheckpointError: a file is not a regular one, too large, or a tokenizer that grows without bound.
    """
    try:
        for path in sorted(folder.iterdir()):
            if path.suffix not in (*TEXTS, ".safetensors"):
                continue
            facts = path.stat()
            if not stat.S_ISREG(facts.st_mode):
                raise CheckpointError(f"{path.name} is not a regular file")
            if path.suffix in TEXTS and facts.st_size > MOST_BYTES:
                raise CheckpointError(f"{path.name} has {facts.st_size >> 20} MB, more than any such file")
    except OSError as error:
        raise CheckpointError(f"its files can't be read ({error.strerror})") from error
    for name in SETTINGS:
        if (path := folder / name).exists():
            _object_in(path)
    if (path := folder / "tokenizer.json").exists():
        _check_tokenizer(path)


def _object_in(path: Path) -> Mapping[str, Any]:
    """The object in a JSON file."""
    try:
        with path.open(encoding="utf-8") as file:
            raw = json.load(file)
    except (OSError, ValueError, RecursionError):
        raise CheckpointError(f"{path.name} is broken: it is no JSON") from None
    if not isinstance(raw, Mapping):
        raise CheckpointError(f"{path.name} is broken: it holds no object with settings")
    return raw


def _check_tokenizer(path: Path) -> None:
    raw = _object_in(path)
    if not isinstance(raw.get("model"), Mapping):
        raise CheckpointError(f"{path.name} is broken: it holds no tokenizer")
    if (growth := _growth(raw.get("normalizer"))) > MOST_GROWTH:
        raise CheckpointError(f"{path.name}: its normalizer makes a text up to {growth:.0e} times longer")
    padding = raw.get("padding")
    strategy = padding.get("strategy") if isinstance(padding, Mapping) else None
    fixed = strategy.get("Fixed", 0) if isinstance(strategy, Mapping) else 0
    step = padding.get("pad_to_multiple_of") if isinstance(padding, Mapping) else 0
    if any(isinstance(tokens, int) and tokens > MOST_PADDING for tokens in (fixed, step)):
        raise CheckpointError(f"{path.name}: it pads every text to more than {MOST_PADDING} tokens")


def _growth(normalizer: Any) -> float:
    """Upper bound of how many times longer a normalizer can make a text of one character."""
    if not isinstance(normalizer, Mapping):
        return 1.0
    parts = normalizer.get("normalizers")
    if isinstance(parts, list):
        growth = 1.0
        for part in parts:
            growth *= _growth(part)
        return growth
    content = normalizer.get("content")
    if not isinstance(content, str):
        return 1.0
    pattern = normalizer.get("pattern")
    text = pattern.get("String") if isinstance(pattern, Mapping) else None
    found = len(text) if isinstance(text, str) and text else 1  # a regex may find one character, or none
    return max(1.0, len(content) / found)
