"""``adatp bias``: attention bias of a model, measured and drawn."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Sequence
from importlib.metadata import version
from importlib.util import find_spec
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.text import Text

from adatp.cli.console import (
    DeviceOption,
    DtypeOption,
    ModelOption,
    check_dtype,
    check_folder,
    check_writable,
    counting,
    draw,
    importing,
    numbers,
    one_line_errors,
    progress,
    quiet_libraries,
    table_of,
    write,
)
from adatp.errors import RefusedError

if TYPE_CHECKING:
    from adatp.video import Video

_QUESTION = "What happens in this video?"


def bias(
    model: ModelOption = None,
    videos: Annotated[
        Path | None,
        typer.Option(help="A folder of videos.", show_default="clips of the embedded model's world"),
    ] = None,
    synthetic: Annotated[
        bool, typer.Option("--synthetic", help="Clips and questions of the embedded model's world.")
    ] = False,
    questions: Annotated[
        Path | None,
        typer.Option(
            help="A text file, a question a line, each asked about every video; behind a file's name and a "
            "tab, about that video alone.",
            show_default=_QUESTION,
        ),
    ] = None,
    layers: Annotated[
        str | None,
        typer.Option(help="Decoder layers, separated by commas.", show_default="all with full attention"),
    ] = None,
    frames: Annotated[int, typer.Option(min=4, help="Frames of each clip.")] = 32,
    limit: Annotated[int, typer.Option(min=1, help="At most so many clips, each with its question.")] = 24,
    json_file: Annotated[
        Path | None, typer.Option("--json", help="Also write everything to this file.", show_default=False)
    ] = None,
    plot: Annotated[
        Path | None,
        typer.Option(help="Also draw the figures into this folder (.png and .svg).", show_default=False),
    ] = None,
    device: DeviceOption = "auto",
    dtype: DtypeOption = "auto",
) -> None:
    """Measure where a model's attention on videos lies, by frame and by spatial position, and debiased.

    The same clips are also shown with their frames shuffled, all alike, and black: what stays is due to
    position, not content.
    """
    if videos is not None and synthetic:
        raise RefusedError("--videos and --synthetic are two sources of clips: choose one")
    if videos is None and questions is not None:
        raise RefusedError("--questions are about --videos: name their folder")
    check_dtype(dtype)
    wanted = None if layers is None else numbers("--layers", layers, int)
    asked = _questions(questions)
    files = None if videos is None else _files(videos, asked)
    if json_file is not None:
        json_file = check_writable(json_file)
    if plot is not None:
        if find_spec("matplotlib") is None:
            raise RefusedError('--plot needs matplotlib: pip install "adatp[plot]"')
        plot = check_folder(plot, "--plot")
    with importing():
        from adatp import ask as asking
        from adatp.bias import measure
        from adatp.tiny import CHECKPOINT
    with one_line_errors(), quiet_libraries(downloads=model is not None and not Path(model).is_dir()):
        source = model if model is not None else str(CHECKPOINT)
        with progress(f"loading {source}", shown=Path(source).is_dir()):
            asking.load_config(source)
            processor = asking.load_processor(source)
            llm = asking.load_model(source, device, dtype)
        clips = _synthetic(frames) if files is None else _read(files, frames)
        total = limit if files is None else min(limit, len(files))
        with counting("measuring") as update:
            found = measure(
                llm,
                processor,
                islice(clips, limit),
                layers=wanted,
                told=lambda done: update(done, total),
            )
        facts = {"version": version("adatp"), "model": model or "embedded", **found}
        if json_file is not None:
            write(json_file, json.dumps(facts) + "\n")
        if plot is not None:
            from adatp import plots

            plot.mkdir(exist_ok=True)
            for name, figure in plots.plot_bias(facts).items():
                for kind in ("png", "svg"):
                    draw(plot / f"bias-{name}.{kind}", figure)
        _show(facts)


def _questions(path: Path | None) -> list[tuple[str | None, str]]:
    """Questions given by the user: (name of a file or None, question)."""
    if path is None:
        return [(None, _QUESTION)]
    try:
        lines = path.read_text().splitlines()
    except (OSError, UnicodeDecodeError) as error:
        why = getattr(error, "strerror", None) or "not a text file"
        raise RefusedError(f"--questions {path}: can't be read ({why})") from error
    found: list[tuple[str | None, str]] = []
    for line in filter(str.strip, lines):
        name, tab, question = line.partition("\t")
        found.append((name.strip(), question.strip()) if tab else (None, line.strip()))
    if not found:
        raise RefusedError(f"--questions {path}: no question in it; write one a line")
    return found


def _files(folder: Path, asked: Sequence[tuple[str | None, str]]) -> list[tuple[Path, str]]:
    """Every question with the files it is about: the first question of every file, then the second, ..."""
    if not folder.is_dir():
        raise RefusedError(f"--videos {folder}: no such folder")
    files = sorted(file for file in folder.iterdir() if file.is_file() and not file.name.startswith("."))
    about = {file.name for file in files}
    for name, _ in asked:
        if name is not None and name not in about:
            raise RefusedError(f"--questions: no {name!r} in {folder}")
    found = [
        (number, file, question)
        for file in files
        for number, question in enumerate(q for name, q in asked if name in (None, file.name))
    ]
    if not found:
        raise RefusedError(f"--videos {folder}: no file in it to ask about")
    return [(file, question) for _, file, question in sorted(found, key=lambda each: each[0])]


def _read(files: Sequence[tuple[Path, str]], frames: int) -> Iterator[tuple[Video, str]]:
    """The videos that can be read and are long enough; of the others one line each."""
    from adatp.video import VideoError, read_video

    refused: set[Path] = set()
    for file, question in files:
        if file in refused:
            continue
        try:
            video = read_video(file, frames)
            if len(video.frames) < frames:
                raise VideoError(f"{file}: only {len(video.frames)} frames; ask for fewer --frames")
        except VideoError as error:
            refused.add(file)
            print(f"adatp: skipped: {error}", file=sys.stderr)
            continue
        yield video, question


def _synthetic(frames: int) -> Iterator[tuple[Video, str]]:
    """Test clips of the embedded model's world, without end."""
    import numpy as np

    from adatp.tiny.world import benchmark, make_clip
    from adatp.video import Video

    for seed, question in benchmark("test", frames, sys.maxsize):
        clip = make_clip(seed, frames, "test")
        yield Video(clip.frames, np.arange(frames, dtype=float), float(frames), 1.0), question.text


def _show(facts: dict[str, Any]) -> None:
    """Print the two statistics before and after debiasing, and what the controls say."""
    console = Console(width=None if sys.stdout.isatty() else 110)  # a file has no edge to wrap at
    end = max(1, facts["frames"] // 8)
    clips = f"{facts['clips']} clip{'s' if facts['clips'] > 1 else ''}"
    console.print(
        Text(
            f"{clips} of {facts['frames']} frames, {facts['segments']:.1f} segments each, "
            f"relevance {facts['relevance']}",
            "bold",
        )
    )

    def at_end(row: dict[str, Any], last: bool = True) -> float:
        share: list[float] = row["top10_by_frame"]
        return sum(share[-end:] if last else share[:end])

    def change(before: float, after: float, form: str) -> str:
        return f"{before:{form}} → {after:{form}}"

    table = table_of("layer", f"first {end}", f"last {end}", "position peak", "kept a position", "entropy")
    for row in facts["layers"]:
        after = row["debiased"]
        kept = [each["top10_position_peak_to_mean"] for each in (row, after)]
        table.add_row(
            str(row["layer"]),
            change(at_end(row, last=False), at_end(after, last=False), ".1%"),
            change(at_end(row), at_end(after), ".1%"),
            f"{row['position_peak_to_mean']:.2f}",
            change(kept[0], kept[1], ".2f"),
            f"{row['entropy']:.3f}",
        )
    console.print(table)
    controls = facts["controls"]
    table = table_of("layer", *(f"{name}: last {end}" for name in controls), "follows slot", "content")
    for number, row in enumerate(facts["layers"]):
        mixed = controls["shuffled"][number]
        table.add_row(
            str(row["layer"]),
            *(f"{at_end(rows[number]):.1%}" for rows in controls.values()),
            *("" if r is None else f"{r:+.2f}" for r in (mixed["follows_slot"], mixed["follows_content"])),
        )
    console.print(table)
    console.print(
        f"First {end}, last {end}: share of the top-10 % attended visual tokens in the first and last {end} "
        f"of {facts['frames']} frames, {end / facts['frames']:.1%} if frames were alike. Position peak: "
        "attention on the most attended spatial position, against the mean one; kept a position: the same of "
        "the number of top-10 % tokens. Entropy: 1 is all alike. Behind the arrow: by AdaTP's rules on the "
        "same attention. Follows: correlation of attention by frame before and after shuffling, slot by slot "
        "and frame by frame.",
        style="dim",
        highlight=False,
    )
