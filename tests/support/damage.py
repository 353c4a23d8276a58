"""Copies of a small checkpoint with one file damaged: hard links to one copy, so that each costs nothing."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from adatp.tiny import CHECKPOINT

Damage = Callable[[Path], None]
"""Damages a file, which is a name of its own: not the one that other copies share."""


def copy_once(folder: Path) -> Path:
    """A copy of the shipped checkpoint that others are linked to."""
    return Path(shutil.copytree(CHECKPOINT, folder))


def linked(source: Path, folder: Path) -> Path:
    """A checkpoint of hard links."""
    return Path(shutil.copytree(source, folder, copy_function=os.link))


def damaged(source: Path, folder: Path, name: str, damage: Damage) -> Path:
    """A checkpoint of hard links, one file of it damaged."""
    linked(source, folder)
    path = folder / name
    if path.is_file():
        content = path.read_bytes()
        path.unlink()
        path.write_bytes(content)
    damage(path)
    return folder


def written(content: str | bytes) -> Damage:
    """The file holds this."""

    def damage(path: Path) -> None:
        path.write_bytes(content.encode() if isinstance(content, str) else content)

    return damage


def setting(keys: str, value: Any) -> Damage:
    """One setting of a JSON file, under keys separated by dots, is this."""

    def damage(path: Path) -> None:
        raw = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
        *outer, last = keys.split(".")
        inner = raw
        for key in outer:
            inner = inner.setdefault(key, {})
        inner[last] = value
        path.write_text(json.dumps(raw), encoding="utf-8")

    return damage


def missing(path: Path) -> None:
    """The file is not there."""
    path.unlink()


def half(path: Path) -> None:
    """The file is cut in two."""
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])


def as_folder(path: Path) -> None:
    """A folder stands where the file should be."""
    path.unlink()
    path.mkdir()


def as_fifo(path: Path) -> None:
    """A FIFO stands where the file should be: to open it would wait for ever."""
    path.unlink()
    os.mkfifo(path)


def as_device(path: Path) -> None:
    """The file is a link to a device without end."""
    path.unlink()
    path.symlink_to("/dev/zero")


def dangling(path: Path) -> None:
    """The file is a link to nowhere."""
    path.unlink()
    path.symlink_to(path.parent / "nowhere")


def looping(path: Path) -> None:
    """The file is a link to itself."""
    path.unlink()
    path.symlink_to(path)


def unreadable_header(path: Path) -> None:
    """A safetensors file whose header is longer than the file."""
    path.write_bytes((1 << 40).to_bytes(8, "little") + b"{}")


def without_weights(words: str) -> Damage:
    """A safetensors file without the tensors whose names hold these words."""

    def damage(path: Path) -> None:
        from safetensors.torch import load_file, save_file

        kept = {name: tensor for name, tensor in load_file(path).items() if words not in name}
        path.unlink()
        save_file(kept, path, {"format": "pt"})

    return damage


BROKEN: dict[str, Damage] = {
    "empty": written(""),
    "half": half,
    "a list": written("[]"),
    "null": written("null"),
    "a number": written("7"),
    "a text": written('"text"'),
    "an empty object": written("{}"),
    "no JSON": written("{model_type: x}"),
    "no UTF-8": written(b'{"a": "\xff\xfe"}'),
    "binary": written(bytes(range(256)) * 8),
    "nested": written("[" * 100_000),
    "missing": missing,
    "a folder": as_folder,
    "a FIFO": as_fifo,
    "a device": as_device,
    "a dangling link": dangling,
    "a loop": looping,
}
"""What can happen to any JSON file."""
