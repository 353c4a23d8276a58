"""The models that ship with the package, by name."""

from __future__ import annotations

from pathlib import Path

CHECKPOINT: Path = Path(__file__).parent / "checkpoint"
"""Folder of the first model's checkpoint. Its `relevance` holds the SigLIP that the tower is cut from."""

EMBEDDED: dict[str, Path] = {
    "tiny": CHECKPOINT,
    "scenes": Path(__file__).parent / "checkpoint-scenes",
}
"""Name of an embedded model, which is also that of its world -> the folder of its checkpoint."""


def embedded_folder(name: str) -> Path | None:
    """The checkpoint folder of an embedded model; None if no shipped one has that name.

    Args:
        name: a key of `EMBEDDED`. A folder of that name in the working directory takes precedence.
    """
    folder = EMBEDDED.get(name)
    return folder if folder is not None and folder.is_dir() and not Path(name).is_dir() else None
