"""``adatp bias``: attention bias of a model, measured and drawn."""

from __future__ import annotations

from importlib.metadata import version
from importlib.util import find_spec
from itertools import islice
from pathlib import Path
from typing import Annotated

import typer

from adatp.cli.asking import load_weights, open_session
from adatp.cli.clips import QUESTION, questions_of_files, read_clips, read_questions, synthetic_clips
from adatp.cli.console import counting, importing, working_on
from adatp.cli.drawing import BIAS_FIGURES, bias_figures
from adatp.cli.files import (
    check_drawing,
    check_folder,
    check_writable,
    keep_inputs,
    model_files,
    write,
    write_set,
)
from adatp.cli.options import (
    MOST,
    MOST_FRAMES,
    DeviceOption,
    DtypeOption,
    JsonOption,
    ModelOption,
    TrustOption,
    check_dtype,
    numbers,
)
from adatp.cli.tables.bias import show_bias
from adatp.errors import RefusedError
from adatp.plain_json import to_json


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
            help="A text file with one question per line. Each is asked about every video, or about one if "
            "the line begins with that file's name and a tab.",
            show_default=QUESTION,
        ),
    ] = None,
    layers: Annotated[
        str | None,
        typer.Option(help="Decoder layers, separated by commas.", show_default="all with full attention"),
    ] = None,
    frames: Annotated[int, typer.Option(min=4, max=MOST_FRAMES, help="Frames of each clip.")] = 32,
    limit: Annotated[int, typer.Option(min=1, max=MOST, help="Most clips, each with its question.")] = 24,
    json_file: JsonOption = None,
    plot: Annotated[
        Path | None,
        typer.Option(help="Also draw the figures into this folder (.png and .svg).", show_default=False),
    ] = None,
    device: DeviceOption = "auto",
    dtype: DtypeOption = "auto",
    trusted: TrustOption = False,
) -> None:
    """Measure where a model's attention on videos lies, by frame and by spatial position, and debiased.

    The same clips are also shown with their frames shuffled, all the same, and black: what stays is due to
    position, not content.
    """
    if videos is not None and synthetic:
        raise RefusedError("--videos and --synthetic are two sources of clips: choose one")
    if videos is None and questions is not None:
        raise RefusedError("--questions are about --videos: name their folder")
    check_dtype(dtype)
    wanted = None if layers is None else numbers("--layers", layers, int)
    asked = read_questions(questions)
    files = None if videos is None else questions_of_files(videos, asked)
    if json_file is not None:
        json_file = check_writable(json_file)
    if plot is not None:
        if find_spec("matplotlib") is None:
            raise RefusedError('--plot needs matplotlib: pip install "adatp[plot]"')
        check_drawing()
        plot = check_folder(plot, "--plot", BIAS_FIGURES)
    outputs = [] if json_file is None else [("--json", json_file)]
    outputs += [] if plot is None else [("--plot", plot / name) for name in BIAS_FIGURES]
    read = [("a clip of --videos", file) for file, _ in files or ()]
    read += [] if questions is None else [("the file of --questions", questions)]
    keep_inputs(outputs, [*read, *model_files(model)])
    with importing():
        from adatp.bias import measure
    with working_on(model):
        session = open_session(model, device, dtype, trusted)
        load_weights(session)
        clips = synthetic_clips(frames) if files is None else read_clips(session, files, frames)
        total = limit if files is None else min(limit, len(files))
        with counting("measuring") as update:
            found = measure(
                session, islice(clips, limit), layers=wanted, progress=lambda done: update(done, total)
            )
        facts = {"version": version("adatp"), "model": model or "embedded", **found}
        if json_file is not None:
            write(json_file, to_json(facts) + "\n")
        if plot is not None:
            write_set(plot, bias_figures(facts), "--plot")
        show_bias(facts)
