"""``adatp convert``: converts checkpoints that transformers can't read."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from adatp.cli.console import importing, progress, working_on
from adatp.errors import RefusedError

KINDS = ("llava-video",)


def convert(
    kind: Annotated[str, typer.Argument(help="Kind of checkpoint: llava-video.")],
    source: Annotated[Path, typer.Argument(help="Folder of the official checkpoint.")],
    dest: Annotated[Path, typer.Argument(help="Folder to write; it must not exist.")],
    vision_tower: Annotated[
        Path | None,
        typer.Option(
            help="Folder of its SigLIP, if that is not so400m or its weights are not in the checkpoint."
        ),
    ] = None,
) -> None:
    """Convert a checkpoint to one that transformers and adatp read."""
    if kind not in KINDS:
        raise RefusedError(f"what can be converted is {', '.join(KINDS)}, not {kind!r}")
    if not os.path.isdir(source):
        raise RefusedError(f"{source}: no such folder")
    with working_on(str(source)):
        with importing():
            from adatp.models.converted.llava_video_checkpoint import convert as convert_llava_video
        with progress(f"converting {source}"):
            convert_llava_video(source, dest, vision_tower)
    Console().print(f"{dest}: ask it with `adatp ask --model {dest}`", highlight=False, soft_wrap=True)
