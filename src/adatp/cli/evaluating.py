"""Helpers of ``adatp eval`` and ``adatp ablate``: options, and a run that can be stopped and continued."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from adatp.cli.asking import load_weights, open_session
from adatp.cli.console import counting, importing, working_on
from adatp.cli.files import (
    Named,
    check_figure,
    check_writable,
    drawn,
    keep_inputs,
    model_files,
    no_room,
    thirds_beside,
    write,
    write_set,
)
from adatp.cli.options import MOST, check_dtype, numbers
from adatp.cli.tables.evaluate import show_rows
from adatp.cli.terminal import say
from adatp.errors import RefusedError
from adatp.plain_json import to_json

if TYPE_CHECKING:
    from adatp import Session
    from adatp.evaluation import Disturbance, Entrant, Results, World

MOST_THREADS = 1024
"""Most CPU threads that can be requested. torch starts as many as it is asked to, and too many crash it."""

MOST_BATCH = 4096
"""Most questions that can be asked together."""

SplitOption = Annotated[str, typer.Option(help="A split of the world: validation, test or shifted.")]
WorldOption = Annotated[
    str | None,
    typer.Option(
        help="World of the questions: tiny or scenes. Without --model, the embedded model of that name "
        "answers.",
        show_default="the one that the model knows",
    ),
]
DisturbOption = Annotated[
    str,
    typer.Option(
        help="Disturbances of every clip, separated by commas: none, noise, pan, compression, dim, "
        "features[:AMOUNT] (noise on the projected tokens), relevance[:AMOUNT] (noise on the frames' "
        "relevance)."
    ),
]
FrameCountsOption = Annotated[
    str, typer.Option(help="Frames of the clips; several numbers separated by commas.")
]
LimitOption = Annotated[int, typer.Option(min=1, max=MOST, help="Questions for each number of frames.")]
ResultsOption = Annotated[
    Path | None,
    typer.Option(
        "--json",
        help="Also write everything to this file. A work file next to it stores the answers, so that the "
        "same command, or one with more methods or targets, continues.",
        show_default=False,
    ),
]
PlotOption = Annotated[
    Path | None,
    typer.Option(
        help="Also draw accuracy against FLOPs into this file (.png, .pdf, .svg), and accuracy by place of "
        "the evidence into one named -thirds next to it.",
        show_default=False,
    ),
]
ThreadsOption = Annotated[
    int | None,
    typer.Option(min=1, max=MOST_THREADS, help="CPU threads to use.", show_default="torch's choice"),
]
BatchOption = Annotated[
    int,
    typer.Option(
        min=1,
        max=MOST_BATCH,
        help="Questions asked together: faster on a GPU, with the same answers.",
    ),
]


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """One evaluation with its options.

    Attributes:
        command: "eval" or "ablate".
        model: a folder or an id on the hub; None: the embedded model.
        frames: lengths of the clips, separated by commas.
        split: a split of the world.
        limit: how many questions of each length.
        json_file: the file for the rows; the work file is next to it.
        plot: the file for the figures.
        threads: CPU threads; None: torch decides.
        device: a torch device, or "auto".
        dtype: name of a dtype, or "auto".
        trusted: whether the checkpoint's code may run.
        world: name of the world; None: the one that the model knows.
        disturb: disturbances, separated by commas.
        batch: questions asked together.
        inputs: files that are read besides the model's.
    """

    command: str
    model: str | None
    frames: str
    split: str
    limit: int
    json_file: Path | None
    plot: Path | None
    threads: int | None
    device: str
    dtype: str
    trusted: bool
    world: str | None
    disturb: str
    batch: int
    inputs: tuple[Named, ...] = ()

    def run(self, entrants: Callable[[int], list[Entrant]]) -> None:
        """Run or resume the evaluation, then write and show the results.

        Args:
            entrants: makes the entrants for a decoder with this number of layers.
        """
        check_dtype(self.dtype)
        counts = list(dict.fromkeys(numbers("--frames", self.frames, int)))
        json_file, plot, held = self._check_outputs()
        with importing():
            from adatp.evaluation import Results, disturbed, summarise
        disturbances = self._disturbances()
        model = self._check_world()
        with working_on(self.model), ExitStack() as stack:
            stack.enter_context(_threads(self.threads))
            session = open_session(model, self.device, self.dtype, self.trusted)
            world = self._world_of(session)
            self._check_clips(world, counts)
            competing = disturbed(entrants(session.config.get_text_config().num_hidden_layers), disturbances)
            if held is None:
                work = Path(stack.enter_context(tempfile.TemporaryDirectory())) / "work.jsonl"
            else:
                work = held
            stack.enter_context(no_room(work, "--json", "run it again to go on"))
            results = stack.enter_context(Results(work))
            results.pin("command", self.command)
            load_weights(session)
            self._ask(session, world, competing, counts, results)
            rows, skipped = summarise(results)
            if json_file is not None:
                write(json_file, to_json(self._facts(results, rows, skipped), indent=1) + "\n")
            if plot is not None:
                self._draw(plot, rows)
            show_rows(rows, self.limit)

    def _check_outputs(self) -> tuple[Path | None, Path | None, Path | None]:
        """Paths of the rows, the figure and the work file, each None if not requested."""
        json_file = held = None
        outputs = []
        if self.json_file is not None:
            json_file = check_writable(self.json_file)
            held = check_writable(json_file.with_name(f"{json_file.stem}.work.jsonl"))
            outputs = [("--json", json_file), ("the work file of --json", held)]
        plot = None if self.plot is None else check_figure(self.plot)
        if plot is not None:
            outputs += [("--plot", plot), ("--plot", thirds_beside(plot))]
        keep_inputs(outputs, [*self.inputs, *model_files(self.model)])
        return json_file, plot, held

    def _disturbances(self) -> list[Disturbance]:
        """The disturbances that --disturb names."""
        from adatp.evaluation import Disturbance

        try:
            return [Disturbance.named(name.strip()) for name in self.disturb.split(",")]
        except ValueError as error:
            raise RefusedError(f"--disturb: {error}") from None

    def _check_world(self) -> str | None:
        """Refuse an unknown world. Returns the model to ask."""
        from adatp.evaluation import WORLDS

        if self.world is not None and self.world not in WORLDS:
            raise RefusedError(f"no world {self.world!r}; there are {', '.join(WORLDS)}")
        return self.world if self.model is None else self.model

    def _world_of(self, session: Session) -> World:
        """The world of the questions. Refuses an embedded model of another world."""
        from adatp.evaluation import WORLDS, lacks_words, world_of

        if self.world is None:
            return world_of(session.processor)
        world = WORLDS[self.world]
        if lacking := lacks_words(session.processor, world):
            raise RefusedError(
                f"{session.source} does not know the world {world.name!r}: its tokenizer lacks "
                f"{len(lacking)} words ({lacking[0]!r}, ...)"
            )
        return world

    def _check_clips(self, world: World, counts: Sequence[int]) -> None:
        """Refuse clips that the world does not make."""
        try:
            for count in counts:
                next(world.benchmark(self.split, count, 1))
        except ValueError as error:
            raise RefusedError(str(error)) from None

    def _ask(
        self,
        session: Session,
        world: World,
        competing: Sequence[Entrant],
        counts: Sequence[int],
        results: Results,
    ) -> None:
        """Ask the questions that are not answered yet. On an interrupt, print how to continue."""
        from adatp.evaluation import evaluate

        try:
            with _counted(results, competing, counts, self.limit) as note:
                evaluate(session, competing, counts, self.split, self.limit, results, note, world, self.batch)
        except KeyboardInterrupt:
            file = self.json_file
            hint = "give --json next time, and it can go on" if file is None else "run it again to go on"
            say(f"interrupted; {hint}")
            raise

    def _facts(
        self, results: Results, rows: list[dict[str, Any]], skipped: list[dict[str, Any]]
    ) -> dict[str, Any]:
        """The content of the --json file."""
        return {
            "version": version("adatp"),
            "command": self.command,
            "model": self.model or self.world or "embedded",
            **{name: value for name, value in results.pins.items() if not name.startswith("run ")},
            "rows": rows,
            "skipped": skipped,
        }

    def _draw(self, plot: Path, rows: list[dict[str, Any]]) -> None:
        """Draw the figures of --plot."""
        with importing():
            from adatp import plots
        compared = plots.plot_accuracy if self.command == "eval" else plots.plot_differences
        figures = {plot.name: compared(rows), thirds_beside(plot).name: plots.plot_thirds(rows)}
        files = {name: drawn(figure, plot.suffix[1:]) for name, figure in figures.items()}
        write_set(plot.parent, files, "--plot")


@contextmanager
def _threads(wanted: int | None) -> Iterator[None]:
    """Give torch this number of CPU threads, and restore the old number afterwards."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(wanted or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@contextmanager
def _counted(
    results: Results, competing: Sequence[Entrant], counts: Sequence[int], limit: int
) -> Iterator[Callable[[str | None], None]]:
    """A bar on stderr, if that is a terminal. Skipped entrants are always printed."""
    runs = [(entrant.key, frames) for entrant in competing for frames in counts]

    def state() -> tuple[int, int]:
        going = [run for run in runs if run not in results.skips]
        return sum(len(results.answers[run]) for run in going), limit * len(going)

    with counting("asking") as update:

        def note(skipped: str | None) -> None:
            if skipped is not None:
                say(f"skipped: {skipped}")
            update(*state())

        yield note
